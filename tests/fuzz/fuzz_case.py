"""One case of the fuzzer: a program, rows, passes and engine settings, checked against the oracle.

A case is plain data, so that it is written to a file and run again from there.
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from weft.frontend.lowering.lower import lower
from weft.frontend.semantics.checker import check
from weft.frontend.semantics.constraints import constraint_of
from weft.frontend.text.parser import parse_text
from weft.ir.core import Module
from weft.ir.diagnostics import CapacityError, WeftError
from weft.ir.parser import parse_module
from weft.passes.manager import Context, MissingFact, Pass, check_order, run_passes
from weft.passes.pipeline import LOWERING, PLAN_PASSES, PROGRAM_PASSES, named_passes
from weft.passes.program.fold import FoldConstants
from weft.passes.validation.registry import validation
from weft.runtime.executable import Executable
from weft.runtime.reference import Reference
from weft.runtime.simulator import ToyChat, ToyExecutor, ToyTokenizer, toy_logits
from weft.tests.fuzz.random_programs import TOOLS, Node, random_program, render

WORDS = (" the", "hello", "ing", '": ', '", "', '{"', " A", " B", "a b", "\n\n", "Grade", "ab",
         "é", " x", "日本")  # fmt: skip
TOKENIZER = ToyTokenizer(WORDS)
ROWS = [
    {"arg": "hello", "items": ["a", "ab"]}, {"arg": "he", "items": []},
    {"arg": "a b é", "items": ["日本", "a", " "]}, {"arg": "hello", "items": ["a", "ab", "b"]},
]  # fmt: skip
ROOMY = 1200
"""Tokens of KV memory with which nothing is ever evicted."""


@dataclass
class Case:
    """What to run; `body` is the program as a tree, `passes` names of passes over programs."""

    body: list[Node]
    rows: list[dict[str, Any]] = field(default_factory=list)
    passes: list[str] = field(default_factory=list)
    fold_rounds: int = 16
    room: int = ROOMY
    page_size: int = 4
    batch: int = 8
    tokens: int = 64
    seed: int = 0
    how: str = "session"

    @property
    def text(self) -> str:
        """The program's text."""
        return render(self.body)

    def write(self, path: Path, problem: str) -> None:
        """Write the case as JSON, with the program's text and what went wrong for the reader."""
        data = {"problem": problem, "text": self.text.splitlines(), **asdict(self)}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data, ensure_ascii=False, indent=1), encoding="utf-8")

    @staticmethod
    def read(path: Path) -> Case:
        """Return the case that a file holds."""
        data = json.loads(path.read_text(encoding="utf-8"))
        del data["problem"], data["text"]
        return Case(**(data | {"body": [_node(item) for item in data["body"]]}))


def _node(data: dict[str, Any]) -> Node:
    body = None if data["body"] is None else [_node(item) for item in data["body"]]
    return Node(data["head"], body, data["last"], [_node(item) for item in data["more"]])


class Problem(Exception):
    """What a case shows to be wrong; `kind` stays the same while the case is made smaller."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


class Uninteresting(Exception):
    """A case that says nothing: the program is refused."""


def random_case(random: Random) -> Case:
    """Return a random case."""
    case = Case(
        body=random_program(random),
        rows=random.sample(ROWS, random.randint(1, 4)),
        passes=random_passes(random),
        fold_rounds=random.choice([0, 1, 2, 16]),
        room=random.choice([80, 160, 300, ROOMY, ROOMY]),
        page_size=random.choice([1, 2, 4, 7]),
        batch=random.choice([1, 3, 8]),
        seed=random.randint(0, 3),
        how=random.choice(["session", "session", "rows", "threads", "stream"]),
    )
    case.tokens = max(random.choice([8, 13, 64]), case.batch)
    return case


def random_passes(random: Random) -> list[str]:
    """Return names of passes over programs in an order that the manager admits."""
    known = [step.name for step in PROGRAM_PASSES]
    for _ in range(20):
        chosen = random.choices(known, k=random.randint(1, 5))
        try:
            check_order(steps_of(chosen))
        except MissingFact:
            continue
        return chosen
    return known


def steps_of(names: list[str], fold_rounds: int = 16) -> tuple[Pass, ...]:
    """Return the whole pipeline of a case."""
    chosen = [
        FoldConstants(rounds=fold_rounds) if step.name == FoldConstants.name else step
        for step in named_passes(names)
    ]
    return (*chosen, *LOWERING, *PLAN_PASSES)


def check_case(case: Case, steps: tuple[Pass, ...] | None = None) -> None:
    """Run a case; raises Problem where the two ways differ, Uninteresting where nothing is said."""
    try:
        file = parse_text(case.text)
        check(file)
    except WeftError as error:
        raise Uninteresting(error.render()) from None
    module = lower(file)
    plan = _plan(module, steps or steps_of(case.passes, case.fold_rounds))
    expected = [_oracle(module, case, number) for number in range(len(case.rows))]
    executable = _executable(plan, case)
    found = _run(executable, case)
    for number, (want, have) in enumerate(zip(expected, found, strict=True)):
        _compare(case, number, want, have)
    _check_clean(executable)


def _plan(module: Module, steps: tuple[Pass, ...]) -> Module:
    context = Context(
        tokenizer=TOKENIZER, chat=ToyChat(), constraint_of=constraint_of, model_name="toy",
        context_length=2048, pure_tools={name: TOOLS[name] for name in ("shout", "broken")},
        entry="random", validate=validation(),
    )  # fmt: skip
    try:
        plan, records = run_passes(steps, module, context)
    except MissingFact as error:
        raise Uninteresting(str(error)) from None
    except Exception as error:
        raise Problem(f"passes raise {type(error).__name__}", str(error)) from error
    for record in records:
        text = str(record.after)
        if parse_module(text) != record.after or str(parse_module(text)) != text:
            raise Problem(f"text form after {record.name}", "it does not read back")
    return plan


def _oracle(module: Module, case: Case, number: int) -> Any:
    reference = Reference(
        module, "random", lambda ids: toy_logits(ids, TOKENIZER.size), TOKENIZER, ToyChat(),
        constraint_of, TOOLS, case.seed,
    )  # fmt: skip
    try:
        return reference.run(number, **case.rows[number])
    except WeftError as error:
        return error


def _executable(plan: Module, case: Case) -> Executable:
    executor = ToyExecutor(
        TOKENIZER.size, num_pages=-(-case.room // case.page_size), page_size=case.page_size,
        context_length=2048, max_batch=case.batch, max_tokens=case.tokens,
    )  # fmt: skip
    return Executable(plan, "random", executor, TOKENIZER, tools=TOOLS, seed=case.seed, model="toy")


def _run(executable: Executable, case: Case) -> list[Any]:
    """Return a result or an error for each row."""
    found: dict[int, Any] = {}
    if case.how == "threads" and len(case.rows) > 1:
        threads = [
            threading.Thread(target=_alone, args=(executable, number, row, found))
            for number, row in enumerate(case.rows)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(200)
        if any(thread.is_alive() for thread in threads):
            raise Problem("hang", "threads did not end in 200 s")
    else:
        jobs = enumerate(executable.check_row(number, row) for number, row in enumerate(case.rows))
        try:
            for ended in executable.session().steps(jobs):
                found.update(ended)
        except Exception as error:
            raise Problem(f"the engine raises {type(error).__name__}", str(error)) from error
    return [found[number] for number in range(len(case.rows))]


def _alone(executable: Executable, number: int, row: dict[str, Any], found: dict[int, Any]) -> None:
    """Run one row in a session of its own, beside others."""
    try:
        jobs = iter([(number, executable.check_row(number, row))])
        for ended in executable.session().steps(jobs):
            found.update(ended)
    except Exception as error:
        found[number] = error


def _compare(case: Case, number: int, want: Any, have: Any) -> None:
    if isinstance(have, CapacityError) and case.room < ROOMY:
        return  # one sequence alone needs more than the room
    if isinstance(want, Exception):
        return  # what fails may be something that nothing uses, which passes may drop
    if isinstance(have, Exception):
        raise Problem(f"the engine fails with {type(have).__name__}", f"row {number}: {have}")
    if not _same(have.value, want.value):
        raise Problem("value", f"row {number}: {have.value!r}, the oracle's is {want.value!r}")
    if not _same(have.values, want.values):
        raise Problem("values", f"row {number}: {have.values!r}, the oracle's are {want.values!r}")
    text = TOKENIZER.decode(want.ids)
    if not text.startswith(have.text):
        raise Problem("text", f"row {number}: {have.text!r}, the oracle's is {text!r}")
    stats = have.stats
    if case.room == ROOMY and stats.hits_predicted != stats.hits_measured:
        raise Problem(
            "hits", f"row {number}: {stats.hits_predicted} predicted, {stats.hits_measured} found"
        )


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal; scores of the same tokens may differ in the last bits."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-4 * max(1.0, abs(one), abs(other))
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


def _check_clean(executable: Executable) -> None:
    engine = executable.engine
    try:
        engine.check()
        assert engine.kv.live == 0 and not engine, "sequences are left"
        engine.tree.clear()
        assert engine.kv.free == engine.kv.num_pages, "pages are left"
    except AssertionError as error:
        raise Problem("leak", str(error)) from error
