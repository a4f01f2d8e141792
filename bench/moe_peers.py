"""accelerate as a peer of offloading: the same model in transformers, as shipped and pinned.

    python -m bench.moe_peers --model random:mixtral-8x7b-16l --cap 16000000000 --batches 512 1024

Prints a line of JSON for each batch as soon as it is measured. It runs in a process of its own:
its weights lie in host memory a second time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

WORKSPACE = 2_500_000_000
"""Bytes of a capped GPU that accelerate's own buffers and a layer on its way get."""


class NoPeer(Exception):
    """A peer that cannot run here, and why."""


class Accelerate:
    """A model under accelerate's hooks: what exceeds the cap is copied for each forward.

    As shipped, weights lie in pageable memory; `pin` pins them where they lie. On a machine
    without a GPU the hooks copy within the CPU's memory: that runs the code, and its times mean
    nothing.
    """

    def __init__(
        self, folder: Path | None, config: Any, weights: int, dtype: str = "bfloat16"
    ) -> None:
        """`weights` are the bytes of the GPU that weights may take."""
        try:
            from accelerate import cpu_offload, dispatch_model, infer_auto_device_map
        except ImportError as error:
            raise NoPeer(f"accelerate is not installed: {error}") from None
        torch.set_grad_enabled(False)
        self.on_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda:0" if self.on_gpu else "cpu")
        model = _model(folder, config, getattr(torch, dtype))
        self._weights = dict(model.state_dict())
        if not self.on_gpu:
            self._model: Any = cpu_offload(
                model, execution_device=self.device, state_dict=self._weights
            )
            return
        blocks = [type(model.model.layers[0]).__name__]
        memory: Any = {0: max(weights, 0), "cpu": 1 << 40}
        places = infer_auto_device_map(model, memory, no_split_module_classes=blocks)
        self._model = dispatch_model(model, places, state_dict=self._weights)

    def pin(self) -> int:
        """Pin the weights where they lie; return how many the system refused."""
        if not self.on_gpu:
            return 0
        runtime: Any = torch.cuda.cudart()
        tensors = [t for t in self._weights.values() if t.device.type == "cpu"]
        found = [int(runtime.cudaHostRegister(t.data_ptr(), t.nbytes, 0)) for t in tensors]
        return sum(error != 0 for error in found)

    def decode(self, batch: int, context: int, steps: int) -> list[float]:
        """Decode greedily after `context` made up keys a sequence; return seconds of each step."""
        cache, config = self._cache(batch, context), self._model.config
        chosen = torch.full((batch, 1), config.vocab_size // 2, device=self.device)
        times = []
        for _ in range(steps):
            start = time.perf_counter()
            out = self._model(input_ids=chosen, past_key_values=cache, use_cache=True)
            chosen = out.logits[:, -1:].argmax(-1)
            self._wait()
            times.append(time.perf_counter() - start)
        return times

    def _cache(self, batch: int, context: int) -> Any:
        from transformers import DynamicCache

        config = self._model.config
        cache = DynamicCache(config=config)
        heads, width = config.num_key_value_heads, config.head_dim
        dtype = self._model.lm_head.weight.dtype
        for layer in range(config.num_hidden_layers):
            keys = torch.randn(batch, heads, context, width, dtype=dtype, device=self.device)
            cache.update(keys, keys.clone(), layer)
        return cache

    def _wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()


def rates(
    folder: Path | None, config: Any, cap: int, context: int, batches: Sequence[int],
    steps: int = 3, dtype: str = "bfloat16",
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Yield accelerate's decode rate in tokens/s of each batch, as shipped, then pinned.

    What the largest batch's keys and a layer on its way leave of the cap is for weights. A batch
    that does not fit is told so.
    """
    keys = 4 * config.layers * config.kv_heads * config.head_dim * max(batches) * (context + steps)
    peer = Accelerate(folder, config, cap - keys - WORKSPACE, dtype)
    for pinned in (False, True):
        refused = peer.pin() if pinned else 0
        for batch in batches:
            try:
                times = peer.decode(batch, context, steps)
            except torch.OutOfMemoryError as error:
                yield {"pinned": pinned, "batch": batch, "rate": 0.0, "why": str(error)[:200]}
                continue
            rate = batch / statistics.median(times[1:] or times)
            yield {"pinned": pinned, "batch": batch, "rate": rate, "steps": times,
                   "refused": refused}  # fmt: skip


def in_process(model: str, cap: int, context: int, batches: Sequence[int], seconds: float
               ) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Yield the lines of this module run as a process of its own; it is ended after `seconds`."""
    command = [sys.executable, "-m", "bench.moe_peers", "--model", model, "--cap", str(cap),
               "--context", str(context), "--batches", *map(str, batches)]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        out, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, _ = process.communicate()
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    if not lines:
        raise NoPeer(f"accelerate gave no figure in {seconds:.0f} s (exit {process.returncode})")
    yield from lines


def _model(folder: Path | None, config: Any, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

    if folder is not None:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    shape = MixtralConfig(
        vocab_size=config.vocab_size, hidden_size=config.width, intermediate_size=config.ffn,
        num_hidden_layers=config.layers, num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads, head_dim=config.head_dim,
        num_local_experts=config.experts, num_experts_per_tok=config.experts_per_token,
        tie_word_embeddings=config.tied,
    )  # fmt: skip
    with torch.device("meta"):
        model: Any = MixtralForCausalLM(shape)
    model = model.to(dtype)
    model = model.to_empty(device="cpu").eval()
    for parameter in model.parameters():
        _fill(parameter.data)
    model.model.rotary_emb = type(model.model.rotary_emb)(config=shape)  # to_empty left no values
    return model


def _fill(data: torch.Tensor) -> None:
    """Fill a weight with normal numbers, by parts that are drawn on the GPU where there is one."""
    if data.dim() == 1:
        data.fill_(1.0)
        return
    place = "cuda" if torch.cuda.is_available() else "cpu"
    for part in data if data.dim() == 3 else [data]:
        drawn = torch.randn(part.shape, dtype=part.dtype, device=place)
        part.copy_(drawn.mul_(part.shape[-1] ** -0.5))


def main() -> None:
    """Measure and print."""
    from weft.frontend.checkpoints.checkpoint import open_checkpoint

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--cap", type=int, required=True, help="bytes of the GPU")
    parser.add_argument("--context", type=int, default=141, help="keys of each sequence")
    parser.add_argument("--batches", type=int, nargs="+", required=True)
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, options.cap / total))
    checkpoint = open_checkpoint(options.model)
    for line in rates(checkpoint.folder, checkpoint.config, options.cap, options.context,
                      options.batches, dtype=options.dtype):  # fmt: skip
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
