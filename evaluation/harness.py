"""`evaluate`: one model under several attentions, on the same questions and the same text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from .attention import Judged
from .paired import Paired
from .perplexity import Perplexity, perplexity
from .retrieval import KINDS, judge, require_room
from .subject import Tested, read_text
from .zoo_tasks import has_tasks, task_accuracy

PARTS = ("perplexity", *KINDS, "tasks")


@dataclass(frozen=True)
class Plan:
    """What to measure: parts, lengths of retrieval, contexts of eight questions a length, the text.

    Perplexity is of at most `tokens` tokens in chunks of `chunk`; `beyond` is the context from
    which its loss counts.
    """

    parts: tuple[str, ...] = PARTS
    lengths: tuple[int, ...] = (512, 1024, 2048, 4096)
    contexts: int = 4
    text: Path | None = None
    tokens: int = 8192
    chunk: int = 4096
    beyond: int = 1024
    examples: int = 12
    seed: int = 2024


@dataclass
class Measured:
    """What one attention did: None and empty where a part was not asked for.

    `read` is the share of tokens that its sparse layers read, `bytes` that of all layers' bytes,
    by part: `perplexity`, `pairs 2048`, ...; `against` compares answers with dense attention's.
    """

    name: str
    perplexity: Perplexity | None = None
    retrieval: dict[str, dict[int, float]] = field(default_factory=dict)
    against: dict[str, dict[int, Paired]] = field(default_factory=dict)
    tasks: dict[str, float] = field(default_factory=dict)
    read: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, float] = field(default_factory=dict)
    asked: int = 0

    @property
    def task_mean(self) -> float:
        """The mean over tasks."""
        return sum(self.tasks.values()) / max(1, len(self.tasks))


class Evaluation:
    """Runs the parts of a plan; `report` hears what is being measured."""

    def __init__(
        self, subject: Tested, attentions: Sequence[Judged], plan: Plan,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:  # fmt: skip
        self._subject, self._attentions, self._plan = subject, attentions, plan
        self._report = report
        self.found = {each.name: Measured(each.name) for each in attentions}

    def run(self) -> dict[str, Measured]:
        """Return what was measured, by the attentions' names; raises ContextTooLong and BadText."""
        plan = self._plan
        if set(KINDS) & set(plan.parts):
            require_room(self._subject, plan.lengths)
        if "perplexity" in plan.parts and plan.text is not None:
            self._measure("perplexity", self._perplexity)
        for kind in KINDS:
            for length in plan.lengths if kind in plan.parts else ():
                self._measure(f"{kind} {length}", lambda k=kind, n=length: self._retrieval(k, n))
        if "tasks" in plan.parts and has_tasks(self._subject.checkpoint):
            self._measure("tasks", self._tasks)
        return self.found

    def _measure(self, part: str, run: Callable[[], None]) -> None:
        self._report(part)
        for each in self._attentions:
            each.start()
        run()
        for each in self._attentions:
            self.found[each.name].read[part] = each.tokens_share()
            self.found[each.name].bytes[part] = each.bytes_share()

    def _perplexity(self) -> None:
        plan = self._plan
        text = read_text(plan.text or Path())
        chunk = min(plan.chunk, self._subject.config.context_length)
        values = perplexity(self._subject, self._attentions, text, chunk, plan.tokens, plan.beyond)
        for name, value in values.items():
            self.found[name].perplexity = value

    def _retrieval(self, kind: str, length: int) -> None:
        attends = {
            each.name: partial(self._subject.attention_of, each) for each in self._attentions
        }
        right = judge(self._subject, attends, kind, length, self._plan.contexts, self._plan.seed)
        for name, answers in right.items():
            found = self.found[name]
            found.retrieval.setdefault(kind, {})[length] = sum(answers) / len(answers)
            found.against.setdefault(kind, {})[length] = Paired.of(right["dense"], answers)
            found.asked = len(answers)

    def _tasks(self) -> None:
        values = task_accuracy(
            self._subject, self._attentions, self._plan.examples, self._plan.seed
        )
        for name, value in values.items():
            self.found[name].tasks = value
