"""What a fork's branches begin with is encoded at once, and is what each then asks for."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from weft.compiler import Compilation
from weft.frontend.tokenizer import HubTokenizer, load_tokenizer
from weft.ir.core import walk
from weft.runtime.branch_texts import BranchTexts
from weft.runtime.executable import Executable
from weft.runtime.later import Later

TREE = """program tree(topic: str, sides: list[str]) -> str:
    "Write about {topic}.\\n"
    fork side in sides as answers:
        {branch}
        gen answer(max_tokens=4)
        yield answer
    return topic
"""
SIDES = ["the sea at night", "an old lighthouse", "7", "ships, and their names "]
BRANCHES = {
    "value": '"{side}"',
    "text": '"From the side of {side}:"',
    "healed": '"About {side}: "',
    "outer": '"{topic}, {side}: and"',
}


class Counting(HubTokenizer):
    """A tokenizer that notes what it was asked for, and what of it was not ready."""

    asked: list[str]
    alone: list[str]
    prepared: list[list[str]]

    def encode_array(self, text: str) -> np.ndarray:
        """Encode a text."""
        self.asked.append(text)
        if text not in self._ready:
            self.alone.append(text)
        return super().encode_array(text)

    def prepare(self, texts: Iterable[str]) -> None:
        """Encode texts ahead."""
        self.prepared.append(list(texts))
        super().prepare(self.prepared[-1])


def ran(program: str, ahead: bool = True, **arguments: Any) -> tuple[Any, Counting]:
    """Return what a row gives, and the tokenizer."""
    compilation = Compilation(program, "tiny-dense")
    folder = compilation.checkpoint.folder
    assert folder is not None
    tokenizer: Any = load_tokenizer(folder)
    tokenizer.__class__ = Counting
    tokenizer.asked, tokenizer.alone, tokenizer.prepared = [], [], []
    executable = Executable(
        compilation.plan, compilation.program_name, compilation.executor, tokenizer,
        sample=compilation.sampler,
    )  # fmt: skip
    if not ahead:
        executable.machine.branch_texts.begin = lambda *given: None
    found = executable.run(**arguments)
    return (found.value, found.values, found.stats.prompt_tokens), tokenizer


@pytest.mark.parametrize("branch", BRANCHES.values(), ids=BRANCHES)
def test_branches_find_their_texts_encoded(branch: str):
    program = TREE.replace("{branch}", branch)
    found, tokenizer = ran(program, topic="harbours", sides=SIDES)
    own = tokenizer.asked[-len(SIDES) :]
    assert (
        len(own) == len(SIDES) and tokenizer.prepared[-1] == own
    )  # in one call, before the first asks
    assert not set(own) & set(tokenizer.alone)
    before, one_by_one = ran(program, ahead=False, topic="harbours", sides=SIDES)
    assert found == before and one_by_one.asked == tokenizer.asked
    assert set(own) <= set(one_by_one.alone)


def test_what_a_branch_only_begins_with_is_left_to_it():
    program = TREE.replace("{branch}", 'let points = score(side)\n        "{points} of {side}"')
    branch = """if side == "7":
            "a number"
        "{side}\""""
    for each in (program, TREE.replace("{branch}", branch)):
        _, tokenizer = ran(each, topic="harbours", sides=SIDES)
        assert not [texts for texts in tokenizer.prepared if any(side in texts for side in SIDES)]


def test_a_fork_of_one_and_values_that_are_not_there_are_left_alone():
    program = TREE.replace("{branch}", '"{side}"')
    _, tokenizer = ran(program, topic="harbours", sides=SIDES[:1])
    assert SIDES[0] in tokenizer.alone
    fork = next(op for op in walk(Compilation(program, "tiny-dense").plan.operations)
                if op.name == "plan.fork")  # fmt: skip
    seen: list[list[str]] = []
    texts = BranchTexts(SimpleNamespace(prepare=lambda given: seen.append(list(given))))  # type: ignore[arg-type]
    texts.begin(fork, 0, [Later(), Later()], {})
    texts.begin(fork, 0, ["a", 7], {})
    assert seen == [[], ["a", "7"]]


def test_texts_of_many_branches_are_encoded_some_at_a_time():
    program = TREE.replace("{branch}", '"{side} of the sea"')
    sides = [f"side {number}" for number in range(70)]
    _, tokenizer = ran(program, topic="harbours", sides=sides)
    portions = [len(texts) for texts in tokenizer.prepared]
    assert portions == [1, 32, 32, 6]
    assert not [text for text in tokenizer.alone if text.startswith("side")]
