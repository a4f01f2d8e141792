"""The tasks that the shipped models were taught, by the generators that stand beside the zoo."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from ..frontend.checkpoints.checkpoint import ZOO, Checkpoint
from .attention import Judged
from .subject import Tested

GENERATORS = ZOO / "train"


def has_tasks(checkpoint: Checkpoint) -> bool:
    """Return whether the tasks fit: a shipped model, in a checkout that holds the generators."""
    shipped = checkpoint.folder is not None and checkpoint.folder.parent == ZOO
    return shipped and (GENERATORS / "tasks.py").exists()


def task_accuracy(
    subject: Tested, attentions: Sequence[Judged], each: int, seed: int = 2024
) -> dict[str, dict[str, float]]:
    """Return exact match by attention and task, every token of an example under the attention.

    `each` examples a task; short ones are below a policy's `min_context` and so read whole.
    """
    data, tokenizer = _generators(subject.checkpoint)
    right: dict[str, dict[str, list[bool]]] = {a.name: {} for a in attentions}
    for name, ids, weights in data.examples(seed, each, tokenizer):
        for attention in attentions:
            best = subject.whole(ids, subject.attention_of(attention)).argmax(-1).tolist()
            for turn in data.answers(ids, weights):
                said = all(best[i - 1] == ids[i] for i in turn)
                right[attention.name].setdefault(name, []).append(said)
    return {
        attention: {name: sum(found) / len(found) for name, found in by_task.items()}
        for attention, by_task in right.items()
    }


def _generators(checkpoint: Checkpoint) -> tuple[Any, Any]:
    from tokenizers import Tokenizer

    if str(GENERATORS) not in sys.path:
        sys.path.append(str(GENERATORS))
    import data  # type: ignore[import-not-found]

    return data, Tokenizer.from_file(str(checkpoint.vocabulary_folder / "tokenizer.json"))
