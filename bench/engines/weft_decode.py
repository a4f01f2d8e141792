"""weft's own decode as the peers' is measured: its engine, step loop and sampler included."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class WeftDecode:
    """A checkpoint folder compiled for `batch` sequences, weights in f32, bf16 or int8."""

    def __init__(self, folder: Path, batch: int, context: int, threads: int, format: str) -> None:
        from weft.compiler.loading import compiled_executor, compiled_sampler
        from weft.frontend.checkpoints.checkpoint import Checkpoint
        from weft.options import Options

        checkpoint = Checkpoint(folder.name, folder)
        config = checkpoint.config
        pages = batch * (context // 16 + 1) * config.layers * 2 * config.kv_heads
        options = Options.from_env().changed(
            weights=format, threads=threads, max_batch=16, max_tokens=512,
            kv_memory=pages * 16 * config.head_dim * 4,
        )  # fmt: skip
        regimes, kernels = _compiled(checkpoint, options)
        self.executor = compiled_executor(checkpoint, regimes, kernels, options)
        self.sampler = compiled_sampler(self.executor, kernels)
        self.batch = batch

    def decode(self, prompt: Sequence[int], steps: int) -> tuple[list[list[int]], list[float]]:
        """Prefill the prompt in every sequence, decode greedily; return tokens, seconds a step.

        A step gives one token to every sequence; prefill is excluded.
        """
        from weft.runtime.engine import Engine

        engine = Engine(self.executor, self.sampler)
        requests = [self._request(engine, prompt, row, steps + 1) for row in range(self.batch)]
        for request in requests:
            engine.submit(request)
        while not all(request.first_token_time for request in requests):
            engine.step()
        times = []
        while engine:
            start = time.perf_counter()
            engine.step()
            times.append(time.perf_counter() - start)
        return [request.generated().tolist() for request in requests], times

    def close(self) -> None:
        """Let the model go."""
        del self.executor

    def _request(self, engine: Any, prompt: Sequence[int], row: int, tokens: int) -> Any:
        from weft.runtime.schedule.request import Request, Sampling

        sequence = engine.create((row,))
        sequence.append(tuple(prompt))
        return Request(sequence, f"row {row}", Sampling(max_tokens=tokens))


def _compiled(checkpoint: Any, options: Any) -> tuple[Any, Any]:
    """Return the lowered regimes and the compiled kernels of a checkpoint."""
    from weft.codegen.build import compile_kernels
    from weft.compiler.formats import weight_dtype
    from weft.passes.tile.regimes import lower_model, merge_kernels
    from weft.passes.tile.rows.sampling import sampling_kernels

    regimes = lower_model(
        checkpoint.config, checkpoint.graph, max_tokens=options.max_tokens,
        max_batch=options.max_batch, weights=weight_dtype(options),
    )  # fmt: skip
    kernels = merge_kernels(regimes) + sampling_kernels(checkpoint.config.vocab_size)
    return regimes, compile_kernels(kernels, "cpu", options.cache)
