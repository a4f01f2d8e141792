"""Logits of the engine's kernels on a GPU, in bf16, against the graph's meaning in f32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from weft.compiler import Compilation
from weft.evaluation.subject import Subject
from weft.frontend.checkpoint import ZOO, open_checkpoint
from weft.options import Options
from weft.runtime.execution.step import StepInput

PROGRAM = 'program asked() -> str:\n    "a"\n    gen x(max_tokens=1)\n    return x\n'
PROMPT, DECODED, PAGE = 150, 10, 64
TOLERANCE = {"tiny-dense": 0.025, "tiny-moe": 0.03}
"""Of the median over rows of an error's norm, as a share of the norm of a row's logits, both about
their mean.

transformers in bf16 on a CPU is off by 0.012 and 0.016 (mean over 160 tokens of zoo/heldout.txt);
two ways to round may differ by twice that. The median, as a router whose choice is close turns
with such errors, and that row is off by up to 0.3.
"""


def ints(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def step(rows: list[list[int]], first: int) -> StepInput:
    """The tokens of two sequences from a position on; pages 1 to 3 and 4 to 6 are theirs."""
    count, table = len(rows[0]), ints([[1, 2, 3], [4, 5, 6]])
    at = torch.arange(first, first + count, dtype=torch.int32)
    slots = torch.cat([pages[at // PAGE] * PAGE + at % PAGE for pages in table])
    return StepInput(
        ints([token for row in rows for token in row]), at.repeat(2), slots,
        ints([0, count, 2 * count]), ints([first + count] * 2), table,
        ints([count - 1, 2 * count - 1]),
    )  # fmt: skip


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [4, 320])
@pytest.mark.parametrize("model", TOLERANCE)
def test_bf16_logits(model: str, batch: int, tmp_path: Path) -> None:
    """Of a batch wide enough for all tokens of the prompts that step is a recorded one, too."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    checkpoint = open_checkpoint(model)
    ids = checkpoint.tokenizer.encode((ZOO / "heldout.txt").read_text(encoding="utf-8"))
    rows = [ids[at : at + PROMPT + DECODED] for at in (500, 3500)]
    options = Options.from_env().changed(
        target="cuda", weights="bf16", kv_memory=64 << 20, max_batch=batch, prove=False,
        cache=tmp_path,
    )  # fmt: skip
    executor: Any = Compilation(PROGRAM, model, options=options).executor
    assert executor.page_size == PAGE
    executor._recorded.cost, before = 0.0, executor.recordings  # each kind is recorded at once
    ends = [(0, PROMPT), *((at, at + 1) for at in range(PROMPT, PROMPT + DECODED))]
    found = []
    for low, high in ends:
        found.append(executor.forward(step([row[low:high] for row in rows], low)).cpu().clone())
        assert executor.recordings > before or (batch == 4 and not low)
    meaning = Subject(checkpoint)
    for number, row in enumerate(rows):
        errors = off(torch.stack([logits[number] for logits in found]),
                     meaning.whole(row)[PROMPT - 1 :])  # fmt: skip
        print(
            f"{model}, sequence {number}: off by {errors.median():.4f}, at most {errors.max():.4f}"
        )
        assert errors.median() < TOLERANCE[model]
        assert off(found[0][[1 - number]], meaning.whole(row)[[PROMPT - 1]]) > 0.5  # another's


def off(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return each row's error, as a share of its logits."""
    found, wanted = (x.float() - x.float().mean(-1, keepdim=True) for x in (found, wanted))
    return (found - wanted).norm(dim=-1) / wanted.norm(dim=-1)
