"""Logits of the engine's kernels on a GPU, in bf16 and fp8, against the graph's meaning in f32."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from weft.compiler import Compilation
from weft.compiler.formats import weight_dtype
from weft.evaluation.subject import Subject
from weft.frontend.checkpoints.checkpoint import ZOO, Checkpoint, open_checkpoint
from weft.options import Options
from weft.passes.graph.weight_format import ChooseWeightFormat
from weft.passes.manager import Context
from weft.tests.runtime.gpu.two_sequences import DECODED, PAGE, PROGRAM, PROMPT, logits, off

FORMATS: dict[str, tuple[dict[str, str], dict[str, float]]] = {
    "bf16": ({"weights": "bf16"}, {"tiny-dense": 0.025, "tiny-moe": 0.03}),
    "fp8_weights_alone": (
        {"weights": "fp8", "activations": "bf16"}, {"tiny-dense": 0.025, "tiny-moe": 0.03}
    ),
    "fp8_weights": ({"weights": "fp8"}, {"tiny-dense": 0.12, "tiny-moe": 0.1}),
    "fp8_keys": ({"weights": "bf16", "kv": "fp8"}, {"tiny-dense": 0.08, "tiny-moe": 0.12}),
    "fp8": ({"weights": "fp8", "kv": "fp8"}, {"tiny-dense": 0.15, "tiny-moe": 0.16}),
}  # fmt: skip
"""Options, and a tolerance for each model: of the median over rows of an error's norm, as a share
of the norm of a row's logits, both about their mean. The meaning has the same weights, those of
fp8 with their scales, and rounds nothing else.

transformers in bf16 on a CPU is off by 0.012 and 0.016 (mean over 160 tokens of zoo/heldout.txt);
two ways to round may differ by twice that. The meaning, where it rounds to fp8 what the kernels
round, is off by 0.061 and 0.049 (rows before products), 0.038 and 0.060 (keys and values), 0.076
and 0.078 (both). The median, as a router whose choice is close turns with such errors, and that row
is off by up to 0.3.
"""


def rounded(checkpoint: Checkpoint, options: Options) -> Any:
    """Return the checkpoint with its weights in the format that the options ask for."""
    kept = ChooseWeightFormat(weight_dtype(options)).run(checkpoint.graph, Context())
    return SimpleNamespace(
        graph=kept, config=checkpoint.config, folder=checkpoint.folder, name=checkpoint.name
    )


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("formats", "batch"), [("bf16", 4), *((formats, 320) for formats in FORMATS)]
)
@pytest.mark.parametrize("model", ["tiny-dense", "tiny-moe"])
def test_logits(model: str, formats: str, batch: int, tmp_path: Path) -> None:
    """Of a batch wide enough for all tokens of the prompts that step is a recorded one, too."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    checkpoint = open_checkpoint(model)
    ids = checkpoint.tokenizer.encode((ZOO / "heldout.txt").read_text(encoding="utf-8"))
    rows = [ids[at : at + PROMPT + DECODED] for at in (500, 3500)]
    chosen, tolerance = FORMATS[formats]
    options = Options.from_env().changed(
        target="cuda", kv_memory=64 << 20, max_batch=batch, prove=False, cache=tmp_path, **chosen
    )
    executor: Any = Compilation(PROGRAM, model, options=options).executor
    assert executor.page_size == PAGE
    executor._recorded.cost, before = 0.0, executor.recordings  # each kind is recorded at once
    found: list[torch.Tensor] = []
    for of_step in logits(executor, rows):
        assert executor.recordings > before or (batch == 4 and not found)
        found.append(of_step)
    meaning = Subject(checkpoint if formats == "bf16" else rounded(checkpoint, options))
    for number, row in enumerate(rows):
        errors = off(torch.stack([each[number] for each in found]),
                     meaning.whole(row)[PROMPT - 1 :])  # fmt: skip
        print(f"{model}, {formats}, sequence {number}: off by {errors.median():.4f}, "
              f"at most {errors.max():.4f}")  # fmt: skip
        assert errors.median() < tolerance[model]
        assert off(found[0][[1 - number]], meaning.whole(row)[[PROMPT - 1]]) > 0.5  # another's
