"""The GGUF exporter: llama.cpp says the same greedy tokens as transformers on the same weights."""

import numpy as np
import pytest
from weft.bench.engines import checkpoint
from weft.bench.engines import gguf as gguf_export

TINY = checkpoint.ONE_B | {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip


def test_rows_of_a_head_are_interleaved() -> None:
    config = {"num_attention_heads": 2, "num_key_value_heads": 1}
    rows = np.arange(8.0)[:, None]
    q = gguf_export.reordered("model.layers.0.self_attn.q_proj.weight", rows, config)
    assert q[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert gguf_export.reordered("model.layers.0.mlp.up_proj.weight", rows, config) is rows


def test_every_tensor_has_a_name() -> None:
    names = [gguf_export.renamed(name) for name in checkpoint.shapes(checkpoint.ONE_B)]
    assert len(set(names)) == len(names) and "blk.15.ffn_down.weight" in names


@pytest.mark.slow
def test_llama_cpp_agrees_with_transformers(tmp_path) -> None:
    pytest.importorskip("llama_cpp")
    pytest.importorskip("gguf")
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from weft.bench.engines.llamacpp import LlamaCpp

    folder = checkpoint.make(tmp_path / "model", TINY | {"torch_dtype": "float32"}, seed=1)
    prompt = [1, 5, 9, 33, 60, 2, 7]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    made = model.generate(torch.tensor([prompt]), max_new_tokens=13, do_sample=False,
                          eos_token_id=None)  # fmt: skip
    peer = LlamaCpp(gguf_export.export(folder, tmp_path / "m.gguf", "f32"), 4, 64, 1, "f32")
    tokens, times = peer.decode(prompt, 12)
    assert tokens == [made[0, len(prompt) :].tolist()] * 4
    assert len(times) == 12
    peer.close()


@pytest.mark.parametrize("format", gguf_export.FORMATS)
def test_every_format_is_written(format: str, tmp_path) -> None:
    pytest.importorskip("gguf")
    folder = checkpoint.make(tmp_path / "model", TINY)
    written = gguf_export.export(folder, tmp_path / "m.gguf", format).stat().st_size
    weights = sum(checkpoint._product(shape) for shape in checkpoint.shapes(TINY).values())
    assert written >= weights * {"f32": 4, "bf16": 2, "f16": 2, "q8_0": 1}[format]
