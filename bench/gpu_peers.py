"""transformers on the workloads of bench/gpu_programs: static cache, decode compiled with graphs.

    python -m bench.gpu_peers --only w4 w1 --record

Token ids of the same lengths, greedy, no end; requests in batches of at most 64. The first run
compiles and is not counted. W2 and W3 need continuous batching with kernels that may be missing
here: for these the recorded seconds are taken (bench/gpu/workloads.py).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import torch
from weft.bench.gpu.workloads import WORKLOADS, Workload, median
from weft.bench.gpu_programs import RESULTS, record, say
from weft.frontend.models.presets import preset

MOST = 64
"""Sequences of a batch."""


def random_llama(name: str) -> Any:
    """Return a model of a shape with random bf16 weights on the GPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = preset(name)
    config = LlamaConfig(
        vocab_size=shape.vocab_size, hidden_size=shape.width, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim, intermediate_size=shape.ffn, rms_norm_eps=shape.norm_eps,
        max_position_embeddings=shape.context_length, tie_word_embeddings=shape.tied,
        dtype=torch.bfloat16,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        return LlamaForCausalLM(config).eval()


def seconds_of(model: Any, workload: Workload) -> float:
    """Return the seconds of all requests of a workload, in batches."""
    count, started = workload.groups * workload.width, time.perf_counter()
    prompt = workload.shared + workload.own
    for first in range(0, count, MOST):
        rows = min(MOST, count - first)
        ids = torch.randint(10, 4000, (rows, prompt), device="cuda")
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=workload.new,
            min_new_tokens=workload.new, do_sample=False, cache_implementation="static",
            pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
        assert out.shape == (rows, prompt + workload.new)
    torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    """Measure, and put the ratios to weft's recorded seconds beside them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=["w1", "w4"], default=["w4", "w1"])
    parser.add_argument("--shape", default="llama-8b")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--commit", default="")
    parser.add_argument("--record", action="store_true", help=f"merge into {RESULTS.name}")
    options = parser.parse_args()
    known = json.loads(RESULTS.read_text())["figures"] if RESULTS.exists() else {}
    model, figures = random_llama(options.shape), {}
    for name in options.only:
        with torch.inference_mode():
            times = [seconds_of(model, WORKLOADS[name]) for _ in range(options.rounds + 1)]
        taken = median(times[1:])
        figures[f"transformers_{name}_seconds"] = taken
        figures[f"transformers_{name}_rounds_s"] = times[1:]
        ours = known.get(f"{name}_seconds")
        if ours:
            figures[f"{name}_vs_transformers"] = taken / ours
            figures[f"{name}_vs_transformers_is"] = "transformers, static cache, measured beside"
        say(f"transformers {name}: {taken:.3f} s; rounds {[round(t, 3) for t in times]}; {figures}")
    if options.record:
        record(figures, ["transformers"], options.commit)
    print(json.dumps(figures))
    sys.exit(0)


if __name__ == "__main__":
    main()
