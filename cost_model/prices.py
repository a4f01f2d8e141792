"""What a token costs, roughly: enough to compare how long two ways to a program's end take."""

from __future__ import annotations

from dataclasses import dataclass

from .hardware import Hardware


@dataclass(frozen=True)
class Prices:
    """Seconds (or any unit) of a step for each token: generated, and read in a prompt.

    The defaults need no hardware: a generated token costs one step, and a prompt's tokens are read
    many in a step.
    """

    decode: float = 1.0
    prefill: float = 1 / 64

    @staticmethod
    def of(hardware: Hardware, weight_bytes: float, flops: float, dtype: str = "f32") -> Prices:
        """Return roofline prices of a model: `flops` a token, `weight_bytes` read in each step.

        A decode step reads all weights (its rows share that); a long prompt is bound by compute.
        """
        level = hardware.level()
        step = weight_bytes / level.main.read.median + level.launch_cost().median
        return Prices(max(step, flops / level.matmul_rate(dtype).median),
                      flops / level.matmul_rate(dtype).median)  # fmt: skip

    @property
    def ratio(self) -> float:
        """Prompt tokens' price in generated tokens."""
        return self.prefill / self.decode
