"""Host time of a decode step at batch 16, outside the model's and the sampler's kernels.

    python -m weft.bench.host_step

The model is free: its logits are one fixed row that never ends a generation, and the sampler
returns fixed tokens. What is left, from one step's start to the next's, is scheduling, packing,
advancing, looking for stops, and the loop around them.
"""

from __future__ import annotations

import statistics
from itertools import pairwise

import torch
from weft.ir.parser import parse_module
from weft.runtime.executable import Executable
from weft.runtime.execution.step import StepInput
from weft.runtime.simulator import ToyExecutor, ToyTokenizer
from weft.runtime.tracing.trace import Trace

BATCH = 16
TOKENS = 400
PLAN = """
plan.func name = @free, parameters = [{{name = "n", type = int}}], returns = str {{|%kv: kv, %n: int|
  %text = plan.tokenize %n, parts = [0, "Row ", {{value = 0}}, ": "] : tokens
  %kv_1 = plan.extend %kv, %text : kv
  %kv_2, %said = plan.decode %kv_1, name = "said", type = str, max_tokens = {tokens}, ends = [1]{stop} : kv, str
  plan.free %kv_2
  plan.return %said
}}
"""  # noqa: E501


class FreeExecutor(ToyExecutor):
    """A model that costs nothing."""

    def forward(self, step: StepInput) -> torch.Tensor:
        """Return rows of zeros."""
        return self.rows[: len(step.logits_rows)]

    def __init__(self, vocab_size: int) -> None:
        super().__init__(
            vocab_size, num_pages=1024, page_size=16, context_length=1024, max_batch=BATCH,
            max_tokens=512,
        )  # fmt: skip
        self.rows = torch.zeros(BATCH, vocab_size)


def fixed_sample(logits: torch.Tensor, *rest: object) -> tuple[torch.Tensor, ...]:
    """Return letters, whatever the logits."""
    count = logits.shape[0]
    return TOKEN[:count], ZEROS[:count], ZEROS[:count]


TOKEN = torch.arange(100, 100 + BATCH, dtype=torch.int32)
ZEROS = torch.zeros(BATCH)


def host_microseconds(stop: str) -> float:
    """Return the median host time of a decode step with all rows running."""
    trace = Trace(kernels=False)
    tokenizer = ToyTokenizer()
    plan = parse_module(PLAN.format(tokens=TOKENS, stop=stop))
    executable = Executable(
        plan, "free", FreeExecutor(tokenizer.size), tokenizer, sample=fixed_sample,  # type: ignore[arg-type]
        trace=trace,
    )  # fmt: skip
    executable.run_rows([{"n": n} for n in range(BATCH)])
    hosts = [
        following.start - step.start - step.model_seconds - step.sample_seconds
        for step, following in pairwise(trace.steps)
        if step.running == following.running == BATCH and not step.prefill_tokens
    ]
    return 1e6 * statistics.median(hosts)


def main() -> None:
    """Print the figures."""
    print(f"host_us_per_step_batch{BATCH}: {host_microseconds(''):.1f}")
    stops = ', stop = ["\\n\\n", "END"]'
    print(f"host_us_per_step_batch{BATCH}_with_stops: {host_microseconds(stops):.1f}")


if __name__ == "__main__":
    main()
