"""The programs that are measured: the language's own, and the shapes of SGLang's benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from . import data
from .data import Row

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES, SHAPES = ROOT / "examples", ROOT / "bench" / "shapes"
SEED = 20261122
KV_TOKENS = 4608
"""Keys and values that a run may hold. SGLang's paper ran on an A10G, whose memory has room for
some 18,000 tokens beside a 7 B model; lengths here are a quarter of that paper's, and so is it."""

ROOMY_TOKENS = 32768
"""A KV memory in which everything fits."""


@dataclass(frozen=True)
class Case:
    """One program with its rows.

    `staged` programs have several dependent model calls, or branches; `scaling` says what is
    smaller than in the benchmark that the shape is taken from.
    """

    name: str
    path: Path
    make: Callable[[Random, int], list[Row]]
    count: int
    staged: bool = True
    program: str | None = None
    scaling: str = ""

    def rows(self, quick: bool = False) -> list[Row]:
        """Return the rows, always the same."""
        return self.make(Random(SEED), max(2, self.count // 4) if quick else self.count)


def _example(
    name: str, make: Callable[[Random, int], list[Row]], count: int, staged: bool = True
) -> Case:
    return Case(name, EXAMPLES / f"{name}.weft", make, count, staged)


def _shape(
    name: str, make: Callable[[Random, int], list[Row]], count: int, scaling: str,
    staged: bool = True, file: str = "", program: str | None = None,
) -> Case:  # fmt: skip
    return Case(name, SHAPES / f"{file or name}.weft", make, count, staged, program, scaling)


LANGUAGE = (
    _example("essay_judge", data.essays, 32),
    _example("few_shot", data.reviews, 64, staged=False),
    _example("extract", data.orders, 48, staged=False),
    _example("chat", data.chats, 64),
    _example("react", data.sums, 64),
    _example("tree_of_thoughts", data.number_games, 24),
    _example("best_draft", data.topics, 24),
    _example("skeleton", data.short_texts, 48),
    _example("self_consistency", data.word_problems, 24),
    _example("retry", data.ranges, 64),
    _example("panel", data.opinions, 48),
    _example("adapters", data.questions, 64),
    _example("pairwise", data.comparisons, 64),
)
"""The eleven of LANGUAGE.md; trees of thought and comparisons have two programs each."""

SGLANG = (
    _shape("mmlu", data.mmlu, 64, "5-shot of 500 tokens (1536), question 90 (110), 4 subjects (57)",
           staged=False),
    _shape("hellaswag", data.hellaswag, 24, "20-shot of 1000 tokens (1400), 4 endings of 30 (25)",
           staged=False),
    _shape("react_replay", data.react_replay, 24, "template 600 tokens (1600), thoughts 24 (200)"),
    _shape("generative_agents", data.agents, 16, "templates 60-110 tokens; outputs as there"),
    _shape("tree_of_thought", data.word_problems, 6, "depth 4, 30 gens of 28 tokens (256)"),
    _shape("tip_suggestion", data.topics, 16, "callee's shots 300 tokens (370), 5 x 12 + 5 x 40 "
           "new ones (24, 128)"),
    _shape("llm_judge", data.articles, 16, "article 350 tokens (1040), judgments 32 (256)"),
    _shape("multi_chain", data.word_problems, 20, "question 30 tokens (72), chains 40 (256)"),
    _shape("json_character", data.names, 48, "one object of 8 fields, at most 220 tokens (256)",
           staged=False),
    _shape("json_document", data.documents, 12, "document 800 tokens (2500), gens as there"),
    _shape("multi_turn_short", data.conversations, 20, "4 turns, input 90 tokens (256-512), 6 new",
           file="multi_turn", program="short"),
    _shape("multi_turn_long", data.conversations, 20, "4 turns, input 90 tokens (256-512), 64 new "
           "(256-512)", file="multi_turn", program="long"),
    _shape("rag", data.rag, 32, "8 demonstrations of 35 tokens, 3 passages of 25, thought 40"),
)  # fmt: skip

CASES = {case.name: case for case in (*LANGUAGE, *SGLANG)}
