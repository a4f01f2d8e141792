"""What a step drew, on the device and on its way to the host."""

from __future__ import annotations

import torch
from torch import Tensor

from ..devices.device import device_errors
from ..devices.pinned import staged
from ..devices.staging import Carry

DEPTH = 3


class Drawn:
    """Tokens, log-probabilities and margins of the last draw, [max_rows] each, in one block.

    `greedy` is how many rows of the last step's logits are drawn already, by their largest.
    """

    def __init__(
        self, max_rows: int, device: torch.device, carry: Carry | None = None
    ) -> None:  # fmt: skip
        self.greedy, self._carry = 0, carry
        self.block = torch.zeros((3, max_rows), dtype=torch.int32, device=device)
        self.token = self.block[0]
        self.logprob, self.margin = (row.view(torch.float32) for row in self.block[1:])
        self._on_gpu = device.type == "cuda"
        self._host = [staged((3, max_rows), torch.int32, self._on_gpu) for _ in range(DEPTH)]
        self._turn = 0

    def views(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the first rows of token, logprob and margin."""
        return self.token[:rows], self.logprob[:rows], self.margin[:rows]

    def fetch(self, rows: int) -> Draw:
        """Begin to copy the first rows to the host; at most `DEPTH` - 1 others may be unread."""
        self._turn = (self._turn + 1) % DEPTH
        host = self._host[self._turn]
        if self._carry is not None:
            self._carry(host.numel(), self.block.view(-1), host.view(-1))
        else:
            host.copy_(self.block, non_blocking=True)
        event = None
        if self._on_gpu:
            event = torch.cuda.Event()
            event.record()
        return Draw(host[:, :rows], event)


class Draw:
    """A draw on its way; `wait` gives it."""

    def __init__(self, host: Tensor, event: torch.cuda.Event | None) -> None:
        self._host = host
        self._event = event

    def ready(self) -> bool:
        """Say, without waiting, whether it is there."""
        return self._event is None or self._event.query()

    def wait(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return token [R] i32, logprob [R] and margin [R] f32, on the host, when they are there.

        They are views that later draws overwrite.
        """
        if self._event is not None:
            with device_errors():  # a kernel that failed is heard of here first
                self._event.synchronize()
        token, logprob, margin = self._host
        return token, logprob.view(torch.float32), margin.view(torch.float32)
