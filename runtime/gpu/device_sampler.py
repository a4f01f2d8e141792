"""Sampling on a GPU: a `SampleKernel` whose draws stay on the device until they are asked for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...codegen.kernel import Kernel
from ..devices.staging import Layout, Staging
from .device_executor import DeviceExecutor
from .drawn import Draw
from .sampled_draws import SampledDraws

_SETTINGS = ("temperature", "top_k", "top_p", "min_p", "u")


class DeviceSampler:
    """Draws tokens as the executor does, or in rounds; see `sampler.sample_rows`.

    Draws go to the executor's `drawn`, from which the next step may take its tokens.
    """

    def __init__(self, executor: DeviceExecutor, kernels: Mapping[str, Kernel]) -> None:
        self._greedy = executor.greedy
        self._drawn = executor.drawn
        self._everything = executor.everything
        rows, words = self._everything.shape
        self._sampled = SampledDraws(kernels, executor.vocab_size, rows, executor.device)
        size, carry = 6 * (rows + 64) + rows * words, kernels["carry"].launch
        self._staging = Staging(size, executor.device, carry)

    def __call__(
        self, logits: Tensor, bitmask: Tensor | None, temperature: Tensor, top_k: Tensor,
        top_p: Tensor, min_p: Tensor, u: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Draw one token a row and wait for it: token [R] i32, logprob [R], margin [R]."""
        return self.start(logits, bitmask, temperature, top_k, top_p, min_p, u).wait()

    def start(
        self, logits: Tensor, bitmask: Tensor | None, temperature: Tensor, top_k: Tensor,
        top_p: Tensor, min_p: Tensor, u: Tensor,
    ) -> Draw:  # fmt: skip
        """Draw one token a row; the settings are on the host, and free again at once."""
        rows = logits.shape[0]
        hot = bool(temperature.numpy().any())
        out = self._drawn.views(rows)
        if not hot and bitmask is None:
            if self._drawn.greedy < rows:
                self._greedy(rows, logits, self._everything[:rows], *out)
        else:
            mask, settings = self._send(bitmask, (temperature, top_k, top_p, min_p, u))
            mask = self._everything[:rows] if mask is None else mask
            if hot:
                counted, weighed = bool(top_k.numpy().any()), bool((top_p.numpy() < 1).any())
                self._sampled(rows, logits, mask, settings, counted, weighed, out)
            else:
                self._greedy(rows, logits, mask, *out)
        self._drawn.greedy = 0
        return self._drawn.fetch(rows)

    def _send(
        self, bitmask: Tensor | None, settings: tuple[Tensor, ...]
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Return the mask and the settings on the device."""
        rows = settings[0].shape[0]
        words = 0 if bitmask is None else bitmask.numel()
        layout = Layout.of([*((name, rows) for name in _SETTINGS), ("mask", words)])
        buffer = self._staging.open()
        for name, tensor in zip(_SETTINGS, settings, strict=True):
            at, size = layout.places[name]
            buffer[at : at + size] = tensor.view(torch.int32).numpy()
        if bitmask is not None:
            at, size = layout.places["mask"]
            buffer[at : at + size] = bitmask.reshape(-1).numpy()
        self._staging.send(layout.end)
        views = layout.views(self._staging.device)
        sent = [views[name].view(tensor.dtype)
                for name, tensor in zip(_SETTINGS, settings, strict=True)]  # fmt: skip
        return None if bitmask is None else views["mask"].view(bitmask.shape), sent
