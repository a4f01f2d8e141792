"""config.json: what is read, and how bad files are refused."""

import json
from dataclasses import replace

import pytest
from weft.frontend.models.config import (
    BadConfig,
    MissingFile,
    UnknownArchitecture,
    UnreadableFile,
    parse_config,
    read_config,
)
from weft.frontend.models.presets import UnknownPreset, preset
from weft.frontend.models.registry import load_model
from weft.ir.model import Rope
from weft.ir.parser import parse_module

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 128256, "hidden_size": 2048,
    "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
}  # fmt: skip


def test_a_hub_config_is_its_preset():
    found = parse_config(LLAMA)
    assert found.rope == Rope(500000.0, "llama3", 32.0, 1.0, 4.0, 8192)
    assert (found.head_dim, found.dtype, found.tied) == (64, "bf16", True)
    assert found == load_model("random:llama-1b")[0]


def test_new_style_rope_parameters():
    scaling = LLAMA["rope_scaling"] | {"rope_theta": 500000.0}
    new = {k: v for k, v in LLAMA.items() if k not in {"rope_scaling", "rope_theta"}}
    assert parse_config(new | {"rope_parameters": scaling}) == parse_config(LLAMA)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, UnknownArchitecture,
         "'GPT2LMHeadModel' is not supported\nhint: supported are: LlamaForCausalLM"),
        ({"architectures": None}, UnknownArchitecture, "'None'"),
        ({"hidden_size": None}, BadConfig, "field 'hidden_size' is missing"),
        ({"vocab_size": "many"}, BadConfig, "vocab_size must be a positive whole number"),
        ({"num_key_value_heads": 5}, BadConfig, "32 is no multiple of num_key_value_heads 5"),
        ({"num_attention_heads": 24}, BadConfig, "2048 is no multiple of num_attention_heads 24"),
        ({"head_dim": 63}, BadConfig, "head_dim 63 is odd"),
        ({"hidden_act": "gelu"}, BadConfig, "'gelu' is not supported"),
        ({"quantization_config": {"bits": 4}}, BadConfig, "quantized checkpoints"),
        ({"rope_scaling": {"rope_type": "longrope"}}, BadConfig,
         "'longrope' is not supported\nhint: supported are: default, linear, llama3, yarn"),
        ({"rope_scaling": {"type": "linear"}}, BadConfig, "needs the number 'factor'"),
        ({"partial_rotary_factor": 0.5}, BadConfig, "partial_rotary_factor 0.5"),
        ({"torch_dtype": "float8"}, BadConfig, "'float8'"),
        ({"architectures": ["MixtralForCausalLM"], "num_local_experts": 2,
          "num_experts_per_tok": 3}, BadConfig, "3 is more than num_local_experts 2"),
        ({"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 4, "mlp_only_layers": [0]},
         BadConfig, "layers without experts"),
        ({"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 4, "num_experts_per_tok": 2},
         BadConfig, "'moe_intermediate_size' is missing"),
        ({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 8, "use_sliding_window": True,
          "layer_types": ["full_attention"]}, BadConfig, "1 entries for 16 layers"),
    ],
)  # fmt: skip
def test_bad_configs_are_refused(change, error, message):
    with pytest.raises(error) as caught:
        parse_config(LLAMA | change)
    assert message in str(caught.value)


def test_windows_by_layer():
    mistral = LLAMA | {"architectures": ["MistralForCausalLM"], "sliding_window": 64}
    assert parse_config(mistral).windows == (64,) * 16
    qwen = LLAMA | {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 64,
                    "max_window_layers": 14}  # fmt: skip
    assert parse_config(qwen).windows == (0,) * 16
    assert parse_config(qwen | {"use_sliding_window": True}).windows == (0,) * 14 + (64,) * 2


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(MissingFile, match="config.json is missing"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA)[:40])
    with pytest.raises(UnreadableFile, match="config.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UnreadableFile, match="object was expected"):
        read_config(tmp_path)
    for text in ('{"a":' * 5000, '{"vocab_size": ' + "9" * 5000 + "}"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UnreadableFile, match="config.json: (it is nested|Exceeds)"):
            read_config(tmp_path)
    odd = ({"architectures": 5}, {"rms_norm_eps": []}, {"rope_scaling": "x"},
           {"num_hidden_layers": 10**30})  # fmt: skip
    for change in odd:
        (tmp_path / "config.json").write_text(json.dumps(LLAMA | change))
        with pytest.raises(UnreadableFile, match="config.json: a value in it has a form"):
            read_config(tmp_path)


def test_a_theta_that_is_left_open_is_the_usual_one():
    assert parse_config(LLAMA | {"rope_theta": None}).rope.theta == 10000.0


def test_unknown_preset():
    with pytest.raises(UnknownPreset, match="llama-1b"):
        load_model("random:llama-900b")


@pytest.mark.parametrize("name", ["tiny-dense", "tiny-moe", "qwen3-0.6b"])
def test_graphs_survive_their_text(name):
    module = load_model(f"random:{name}")[1]
    assert parse_module(str(module)) == module


def test_a_shape_with_other_layers():
    whole, cut = preset("mixtral-8x7b"), preset("mixtral-8x7b-16l")
    assert (cut.layers, len(cut.windows)) == (16, 16)
    assert replace(cut, layers=32, windows=whole.windows) == whole
    for name in ("mixtral-8x7b-0l", "none-16l"):
        with pytest.raises(UnknownPreset, match="NAME-16l"):
            preset(name)
