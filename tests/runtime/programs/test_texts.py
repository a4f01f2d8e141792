"""Texts that many rows and branches go on with are encoded at once, and are what each asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from weft.compiler import Compilation
from weft.frontend.checkpoints.tokenizer import HubTokenizer, load_tokenizer
from weft.runtime.executable import Executable
from weft.runtime.programs.tasks import TaskLoop
from weft.runtime.programs.texts import PORTION, Texts, Unencoded
from weft.tests.each_time import each_time

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
    "scored": 'let points = score(side)\n        "{points} of {side}"',
    "chosen": 'let other = "no {side}"\n        "Which? "\n        select that from [side, other]',
    "spaced fork": '"{side}: "\n        fork 2 as inner:\n            "more "\n'
    "            gen more(max_tokens=2)\n            yield more",
}
TURNS = """program turns(name: str) -> str:
    "{name} says:"
    gen first(max_tokens=3)
    "\\nThen {name} goes on:"
    gen second(max_tokens=3)
    return second
"""


class Counting(HubTokenizer):
    """A tokenizer that notes what it encodes in one call, and what alone."""

    alone: list[str]
    together: list[list[str]]

    def encode_array(self, text: str) -> np.ndarray:
        """Encode a text."""
        if text not in self._ready:
            self.alone.append(text)
        return super().encode_array(text)

    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode texts at once."""
        self.together.append(list(texts))
        return super().encode_arrays(texts)


class OneByOne(Counting):
    """A tokenizer that takes all texts to be ready."""

    def is_ready(self, text: str) -> bool:
        """Return True."""
        return True


class Failing(Counting):
    """A tokenizer that cannot encode some texts."""

    def encode_array(self, text: str) -> np.ndarray:
        """Encode a text."""
        if "unspeakable goes on" in text:
            raise ValueError("no such text")
        return super().encode_array(text)

    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode texts at once."""
        return [self.encode_array(text) for text in texts]


def made(program: str, kind: type[Counting] = Counting) -> tuple[Executable, Counting]:
    """Return a program made ready to run, and its tokenizer."""
    compilation = Compilation(program, "tiny-dense")
    folder = compilation.checkpoint.folder
    assert folder is not None
    tokenizer: Any = load_tokenizer(folder)
    tokenizer.__class__ = kind
    tokenizer.alone, tokenizer.together = [], []
    executable = Executable(
        compilation.plan, compilation.program_name, compilation.executor, tokenizer,
        sample=compilation.sampler,
    )  # fmt: skip
    return executable, tokenizer


@pytest.mark.parametrize("branch", each_time(BRANCHES, "healed", "scored", "chosen", "spaced fork"))
def test_branches_say_what_they_say_where_each_text_is_encoded_by_itself(branch: str):
    found = []
    for kind in (Counting, OneByOne):
        executable, tokenizer = made(TREE.replace("{branch}", branch), kind)
        result = executable.run(topic="harbours", sides=SIDES)
        found.append((result.value, result.values, result.stats.prompt_tokens))
        assert bool(tokenizer.together) == (kind is Counting)
        own = [text for text in tokenizer.alone if "sea at night" in text]
        assert bool(own) == (kind is OneByOne)
    assert found[0] == found[1]


def test_texts_of_many_branches_are_encoded_some_at_a_time():
    executable, tokenizer = made(TREE.replace("{branch}", '"{side} of the sea"'))
    executable.run(topic="harbours", sides=[f"side {number}" for number in range(70)])
    assert [len(texts) for texts in tokenizer.together] == [PORTION, PORTION, 70 - 2 * PORTION]


def test_what_rows_go_on_with_at_once_is_encoded_in_one_call():
    rows = [{"name": f"Person {number}"} for number in range(9)]
    executable, tokenizer = made(TURNS)
    results = executable.run_rows(rows)
    own = [texts for texts in tokenizer.together if "goes on" in texts[-1]]
    assert sum(map(len, own)) == 9 and len(own) <= 2  # a row may be a step ahead
    assert not [text for text in tokenizer.alone if "goes on" in text]
    apart, _ = made(TURNS, OneByOne)
    assert results.values == apart.run_rows(rows).values


def test_a_text_that_cannot_be_encoded_is_its_own_row_s_fault():
    rows = [{"name": name} for name in ("Ann", "The unspeakable", "Bob")]
    executable, _ = made(TURNS, Failing)
    outcomes = dict(pair for some in executable.session().steps(
        (number, executable.check_row(number, row)) for number, row in enumerate(rows)
    ) for pair in some)  # fmt: skip
    assert isinstance(outcomes[1], ValueError)
    expected = made(TURNS)[0].run_rows([rows[0], rows[2]])
    assert [outcomes[0].value, outcomes[2].value] == expected.values


class Idle:
    """An engine that nobody asks for anything."""

    may_begin, trace = False, None

    def __bool__(self) -> bool:
        return False


def test_a_task_that_is_cancelled_while_its_texts_wait_is_not_resumed():
    gathered: list[list[str]] = []
    loop = TaskLoop(Idle(), (), lambda texts: gathered.append(list(texts)))  # type: ignore[arg-type]
    resumed, ended = [], []

    def task(name: str) -> Any:
        yield Unencoded([name])
        resumed.append(name)
        return name

    roots = [loop.start(task(name), lambda *outcome: ended.append(outcome)) for name in "abc"]
    for _ in roots:
        loop._resume(*loop._ready.popleft())
    loop.cancel(roots[1])
    assert loop and not resumed
    loop.step()
    assert (gathered, resumed) == ([["a", "c"]], ["a", "c"])
    assert ended == [("a", None), ("c", None)] and not loop


def test_texts_of_a_tokenizer_that_encodes_one_at_a_time_are_never_waited_for():
    class Plain:
        def encode(self, text: str) -> list[int]:
            return [ord(letter) for letter in text]

    texts = Texts(Plain())  # type: ignore[arg-type]
    assert texts.unencoded(("ab", 7)) == []
    assert texts.ids_of(("ab", 7, "", "c")).tolist() == [97, 98, 7, 99]
    assert texts.ids_of(()).tolist() == [] and texts.listed("ab") == [97, 98]
    assert Unencoded(["a"]).texts == ["a"]


CHOOSE = """program choose(question: str, answers: list[str]) -> str:
    "Answer. {question}"
    select answer from answers
    return answer
"""


@pytest.mark.parametrize("end", [" ", ""])
def test_prompts_and_their_options_are_encoded_ahead_as_they_are_asked_for(end: str):
    """The space at a prompt's end goes to the options: neither is encoded again."""
    rows = [{"question": f"Question {n} of the sea?{end}", "answers": [f"blue {n}", "green"]}
            for n in range(3)]  # fmt: skip
    executable, tokenizer = made(CHOOSE)
    found = executable.run_rows(rows)
    assert not tokenizer.alone and not tokenizer.together
    by_itself, other = made(CHOOSE, OneByOne)
    by_itself._host.forecast.prepare = lambda rows, most: len(list(rows))  # type: ignore[method-assign]
    assert by_itself.run_rows(rows).values == found.values and other.alone


@pytest.mark.parametrize("says", ['gen g: regex "redu"', 'select g from ["redu", "redux"]'])
def test_a_text_after_what_the_model_says_is_encoded_by_itself(says: str):
    """As the document of the language says; between texts, tokens do span the border."""
    text = f'program p() -> str:\n    "Q: "\n    {says}\n    "x="\n    gen t\n    return t'
    compilation = Compilation(text, "tiny-dense")
    assert compilation.checkpoint is not None
    encode = compilation.checkpoint.tokenizer.encode
    assert encode("redux=") != encode("redu") + encode("x="), "one text would join them"
    known = [list(op["ids"]) for op in compilation.plan.walk() if op.name == "plan.tokens"]
    assert known[-1] == encode("x=")
    both = Compilation(
        'program p() -> str:\n    "redu"\n    "x="\n    gen t\n    return t', "tiny-dense"
    )
    (ids,) = [list(op["ids"]) for op in both.plan.walk() if op.name == "plan.tokens"]
    assert ids[-len(encode("redux=")) :] == encode("redux=")
