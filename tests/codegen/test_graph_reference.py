"""Logits of the whole loader and the graph reference equal transformers' in float32."""

from pathlib import Path

import pytest
import torch
import transformers
from weft.codegen.meaning.graph_reference import run_graph
from weft.frontend.models.registry import load_model
from weft.ir.verifier import verify
from weft.runtime.execution.weight_files import Checkpoint
from weft.runtime.execution.weights import load_weights

BASE = dict(
    vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
)  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 16}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 1e3, "factor": 4.0,
        "original_max_position_embeddings": 32}  # fmt: skip
YARN_SMOOTH = YARN | {"truncate": False, "mscale": 0.7, "mscale_all_dim": 1.1, "beta_fast": 16}
EXPERTS = dict(num_local_experts=4, num_experts_per_tok=2)
QWEN_EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, head_dim=16)

CASES = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", dict(tie_word_embeddings=True)),
    "llama-biases": ("Llama", dict(attention_bias=True, mlp_bias=True)),
    "llama-mha": ("Llama", dict(num_key_value_heads=4)),
    "llama-mqa": ("Llama", dict(num_key_value_heads=1)),
    "llama-head-dim": ("Llama", dict(head_dim=16)),
    "llama-llama3": ("Llama", dict(rope_parameters=LLAMA3)),
    "llama-linear": ("Llama", dict(rope_parameters=LINEAR)),
    "llama-yarn": ("Llama", dict(rope_parameters=YARN)),
    "llama-yarn-smooth": ("Llama", dict(rope_parameters=YARN_SMOOTH)),
    "mistral-window": ("Mistral", dict(sliding_window=7)),
    "qwen2": ("Qwen2", dict(rope_parameters={"rope_type": "default", "rope_theta": 1e6})),
    "qwen2-window": ("Qwen2", dict(use_sliding_window=True, sliding_window=9,
                                   max_window_layers=1)),
    "qwen2-yarn": ("Qwen2", dict(rope_parameters=YARN, tie_word_embeddings=True)),
    "qwen3": ("Qwen3", dict(head_dim=16)),
    "qwen3-tied": ("Qwen3", dict(head_dim=8, tie_word_embeddings=True)),
    "mixtral": ("Mixtral", EXPERTS),
    "mixtral-window": ("Mixtral", EXPERTS | dict(sliding_window=7, num_experts_per_tok=1)),
    "qwen3-moe": ("Qwen3Moe", QWEN_EXPERTS | dict(norm_topk_prob=True)),
    "qwen3-moe-plain-sums": ("Qwen3Moe", QWEN_EXPERTS | dict(num_experts_per_tok=3)),
    "mixtral-llama3": ("Mixtral", EXPERTS | dict(rope_parameters=LLAMA3)),
}  # fmt: skip


@pytest.fixture
def save(tmp_path):
    def build(family, settings, **how):
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(**(BASE | settings))
        model = getattr(transformers, f"{family}ForCausalLM")(config).float().eval()
        for _, parameter in model.named_parameters():
            if parameter.dim() == 1:  # norms and biases: make them matter
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
        model.save_pretrained(tmp_path, **how)
        return model, tmp_path

    return build


def logits(folder, tokens):
    config, module = load_model(folder)
    verify(module, ("graph",))
    weights = {name: w.dense() for name, w in load_weights(module, Checkpoint(folder)).items()}
    return run_graph(module, weights, tokens)


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_transformers(case, save):
    model, folder = save(*CASES[case])
    tokens = torch.randint(0, 97, (40,)).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0]
    torch.testing.assert_close(logits(folder, tokens), expected, atol=1e-4, rtol=1e-4)


def test_shards_are_read_through_the_index(save):
    model, folder = save("Llama", {}, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    tokens = list(range(20))
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0]
    torch.testing.assert_close(logits(folder, tokens), expected, atol=1e-4, rtol=1e-4)


def test_fused_names_of_mixtral(save):
    """transformers keeps experts fused in memory; some checkpoints are stored like that."""
    from safetensors.torch import save_file

    model, folder = save("Mixtral", EXPERTS)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()},
              folder / "model.safetensors")  # fmt: skip
    assert any(n.endswith("experts.gate_up_proj") for n in Checkpoint(folder).names())
    tokens = list(range(20))
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0]
    torch.testing.assert_close(logits(folder, tokens), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["tiny-dense", "tiny-moe"])
def test_shipped_models_equal_transformers(name):
    folder = Path(__file__).parents[2] / "zoo" / name
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.randint(0, 4096, (64,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0]
    torch.testing.assert_close(logits(folder, tokens), expected, atol=1e-3, rtol=1e-4)
