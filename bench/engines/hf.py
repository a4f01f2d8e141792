"""transformers as a peer: greedy decoding in torch, eager or compiled with a static cache."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..measure import gaps


class Transformers:
    """A checkpoint folder in transformers, `batch` sequences at once, no padding.

    Modes: eager; compile (torch.compile of the step, static cache, static shapes);
    compile-freeze (the same with Inductor's weight packing for CPU).
    """

    def __init__(
        self, folder: Path, batch: int, context: int, threads: int, mode: str, dtype: str
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self._torch, self.batch, self.context, self.mode = torch, batch, context, mode
        kind = getattr(torch, dtype)
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=kind).eval()
        self._step: Any = self._model
        if mode != "eager":
            from torch._inductor import config as inductor

            inductor.freezing = mode == "compile-freeze"
            self._step = torch.compile(self._model, fullgraph=True, dynamic=False)
            self._cache = self._fresh_cache()

    def decode(self, prompt: Sequence[int], steps: int) -> tuple[list[list[int]], list[float]]:
        """Prefill the prompt in every sequence, decode greedily; return tokens, seconds a step.

        A step gives one token to every sequence; prefill is excluded.
        """
        torch = self._torch
        cache = self._empty_cache()
        rows = torch.tensor([list(prompt)] * self.batch)
        positions = torch.arange(len(prompt))
        chosen = self._forward(self._model, rows, cache, positions)
        made = [chosen]
        times = [time.perf_counter()]
        for step in range(steps):
            position = torch.tensor([len(prompt) + step])
            chosen = self._forward(self._step, chosen, cache, position)
            made.append(chosen)
            times.append(time.perf_counter())
        return torch.cat(made, dim=1).tolist(), gaps(times)

    def close(self) -> None:
        """Let the model go."""
        self._model = self._step = None

    def _forward(self, model: Any, rows: Any, cache: Any, positions: Any) -> Any:
        out = model(
            input_ids=rows, past_key_values=cache, use_cache=True, logits_to_keep=1,
            cache_position=positions, position_ids=positions[None],
        )  # fmt: skip
        return out.logits[:, -1].argmax(-1, keepdim=True)

    def _fresh_cache(self) -> Any:
        from transformers import StaticCache

        return StaticCache(config=self._model.config, max_cache_len=self.context)

    def _empty_cache(self) -> Any:
        if self.mode == "eager":
            from transformers import DynamicCache

            return DynamicCache(config=self._model.config)
        self._cache.reset()
        return self._cache
