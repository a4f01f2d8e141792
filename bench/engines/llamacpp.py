"""llama.cpp as a peer: greedy decoding through its C interface (llama-cpp-python), any batch."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..measure import gaps

KV_TYPES = {"f32": 0, "f16": 1}


class LlamaCpp:
    """A GGUF model with room for `batch` sequences of `context` tokens each."""

    def __init__(self, path: Path, batch: int, context: int, threads: int, kv: str = "f16") -> None:
        c: Any = import_module("llama_cpp")  # a peer, which few have

        self._c = c
        self._quiet = c.llama_log_callback(lambda level, text, data: None)
        c.llama_log_set(self._quiet, ctypes.c_void_p(0))
        c.llama_backend_init()
        self._model = c.llama_model_load_from_file(
            str(path).encode(), c.llama_model_default_params()
        )
        settings = c.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max = context * batch, batch
        settings.n_batch = settings.n_ubatch = 512
        settings.n_threads = settings.n_threads_batch = threads
        settings.type_k = settings.type_v = KV_TYPES[kv]
        settings.no_perf = True
        self._context = c.llama_init_from_model(self._model, settings)
        if not self._context:
            raise RuntimeError(f"llama.cpp could not load {path}")
        self.batch = batch
        self.vocabulary = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self._model))
        self._tokens = c.llama_batch_init(512, 0, 1)

    def decode(self, prompt: Sequence[int], steps: int) -> tuple[list[list[int]], list[float]]:
        """Prefill the prompt in every sequence, decode greedily; return tokens, seconds a step.

        A step gives one token to every sequence; prefill is excluded.
        """
        memory = self._c.llama_get_memory(self._context)
        self._c.llama_memory_clear(memory, True)
        for sequence in range(self.batch):
            last = len(prompt) - 1
            rows = [(token, at, sequence, at == last) for at, token in enumerate(prompt)]
            for start in range(0, len(rows), 512):
                self._run(rows[start : start + 512])
        chosen = [int(self._logits(1)[0].argmax())] * self.batch
        made = [chosen]
        times = [time.perf_counter()]
        for step in range(steps):
            at = len(prompt) + step
            self._run([(token, at, s, True) for s, token in enumerate(chosen)])
            chosen = self._logits(self.batch).argmax(-1).tolist()
            made.append(chosen)
            times.append(time.perf_counter())
        return [list(column) for column in zip(*made, strict=True)], gaps(times)

    def close(self) -> None:
        """Free the model."""
        self._c.llama_batch_free(self._tokens)
        self._c.llama_free(self._context)
        self._c.llama_model_free(self._model)

    def _run(self, rows: list[tuple[int, int, int, bool]]) -> None:
        batch = self._tokens
        batch.n_tokens = len(rows)
        for row, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[row], batch.pos[row] = token, position
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence
            batch.logits[row] = wanted
        if self._c.llama_decode(self._context, batch) != 0:
            raise RuntimeError("llama_decode failed: no room in the KV cache")

    def _logits(self, rows: int) -> np.ndarray:
        """Return the logits [rows, V] of the last batch, as a view."""
        pointer = self._c.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, (rows, self.vocabulary))
