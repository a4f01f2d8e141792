"""Random programs: the engine, short of memory and with small steps, gives the oracle's tokens."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weft.ir.diagnostics import WeftError
from weft.runtime.schedule.limits import KVTooSmall
from weft.runtime.schedule.row_costs import ideal_hits
from weft.runtime.tracing.trace import Trace
from weft.tests.each_time import examples
from weft.tests.runtime.programs.test_equivalence import in_steps

TEXTS = st.sampled_from(
    ["a", " the ", "hello", "x{arg}", "Grade: ", "\\n", "ab", "a b\\n\\n", " ", "long " * 9]
)
TYPES = st.sampled_from(["int(0..20)", "bool", 'choice["a", "ab", "the end"]', 'regex "a+b?"'])
OPTIONS = st.sampled_from(
    ["", "", 'stop="a"', 'stop=regex "[ab] ?[a-z]"',
     'stop=["b", "the"]', "temperature=1.0", "temperature=2.0, top_k=5",
     "temperature=0.7, top_p=0.8", "temperature=1.0, min_p=0.2, seed=3"]
)  # fmt: skip


OTHER = """program other(text: str) -> str:
    "({text}"
    gen more(max_tokens=3, temperature=1.0)
    if len(more) > 2:
        return more
    ")"
    return "short"

"""


@st.composite
def programs(draw: st.DrawFn) -> str:
    writer = _Writer(draw)
    body = writer.block(depth=0, size=draw(st.integers(2, 5)))
    return OTHER + "program random(arg: str) -> int:\n" + "\n".join(body) + "\n    return 7\n"


class _Writer:
    """Writes blocks of statements; names are numbered, so that each is bound once."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._number = 0
        self._known = ["arg"]
        """Texts that can be named where the next line stands."""

    def block(self, depth: int, size: int, message: bool = False) -> list[str]:
        lines: list[str] = []
        known = [*self._known]
        for _ in range(size):
            kinds = ["text", "text", "gen", "gen", "typed", "select", "score"]
            if depth < 2:
                kinds += ["fork", "join", "inline", "call", "for", "if"] + (
                    [] if message else ["message"]
                )
            kind = self._draw(st.sampled_from(kinds))
            lines += getattr(self, "_" + kind)(depth, message)
        self._known = known
        return ["    " + line for line in lines]

    def _name(self, hint: str) -> str:
        self._number += 1
        return f"{hint}{self._number}"

    def _some(self) -> str:
        return self._draw(st.sampled_from(self._known))

    def _bound(self, hint: str) -> str:
        name = self._name(hint)
        self._known.append(name)
        return name

    def _text(self, depth: int, message: bool) -> list[str]:
        return [f'"{self._draw(TEXTS).replace("arg", self._some())}"']

    def _gen(self, depth: int, message: bool) -> list[str]:
        options = self._draw(OPTIONS)
        budget = f"max_tokens={self._draw(st.integers(1, 7))}"
        given = f"{budget}, {options}" if options else budget
        return [f"gen {self._bound('g')}({given})"]

    def _typed(self, depth: int, message: bool) -> list[str]:
        return [f"gen {self._name('t')}(max_tokens=24): {self._draw(TYPES)}"]

    def _select(self, depth: int, message: bool) -> list[str]:
        by = self._draw(st.sampled_from(["", '(by="greedy")', '(by="unconditional")']))
        options = '"a", "ab", "hello", "ab the", "{VALUE}c"'.replace("VALUE", self._some())
        return [f"select {self._name('s')}{by} from [{options}]"]

    def _fork(self, depth: int, message: bool) -> list[str]:
        width, item = self._draw(st.integers(1, 3)), self._name("item")
        body = self.block(depth + 1, self._draw(st.integers(1, 3)), message)
        over = ["", f'{item} in ["p", "a b"]'][self._draw(st.integers(0, 1))]
        head = f"fork {over or width}"
        return [f"{head} as {self._name('f')}:", *body, f"    yield len({self._some()})"]

    def _score(self, depth: int, message: bool) -> list[str]:
        text = self._draw(st.sampled_from(["a", "hello the", " ", "{arg}"]))
        text = text.replace("arg", self._some())
        return [f'let {self._name("v")} = score("{text}")']

    def _join(self, depth: int, message: bool) -> list[str]:
        *lines, _ = self._fork(depth, message)
        name = lines[0].split()[-1].rstrip(":")
        return [*lines, '    yield score("hello")', f"join best(by={name})"]

    def _inline(self, depth: int, message: bool) -> list[str]:
        return [f'inline other("{self._draw(TEXTS)}")']

    def _call(self, depth: int, message: bool) -> list[str]:
        text = self._some()
        return [f"let {self._bound('c')} = call other({text})"]

    def _for(self, depth: int, message: bool) -> list[str]:
        body = self.block(depth + 1, self._draw(st.integers(1, 2)), message)
        return [f"for {self._name('i')} in range({self._draw(st.integers(0, 2))}):", *body]

    def _if(self, depth: int, message: bool) -> list[str]:
        body = self.block(depth + 1, self._draw(st.integers(1, 2)), message)
        return [f"if len({self._some()}) > {self._draw(st.integers(0, 8))}:", *body]

    def _message(self, depth: int, message: bool) -> list[str]:
        role = self._draw(st.sampled_from(["system", "user", "assistant"]))
        return [f"{role}:", *self.block(depth + 1, self._draw(st.integers(1, 3)), True)]


@settings(
    max_examples=examples(80), deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(
    text=programs(),
    room=st.sampled_from([80, 160, 1200]),
    page_size=st.sampled_from([1, 2, 4, 7]),
    batch=st.sampled_from([1, 3, 8]),
    tokens=st.sampled_from([8, 13, 64]),
    seed=st.integers(0, 3),
    ahead=st.booleans(),
    together=st.booleans(),
)
def test_engine_equals_oracle(toy, text, room, page_size, batch, tokens, seed, ahead, together):
    rows = [{"arg": "hello"}, {"arg": "he"}, {"arg": "a b"}]
    oracle, trace = toy.oracle(text, seed=seed), Trace()
    executable = toy.compile(
        text, seed=seed, num_pages=-(-room // page_size), page_size=page_size, max_batch=batch,
        max_tokens=max(tokens, batch), trace=trace, ahead=ahead, together=together,
    )  # fmt: skip
    try:
        expected = [oracle(number, **row) for number, row in enumerate(rows)]
    except WeftError:
        return  # a constraint cut short by max_tokens: no value to compare
    try:
        found = dict(in_steps(executable, rows))
    except KVTooSmall:
        toy.assert_clean(executable)
        return  # one sequence alone needs more than `room`
    for number, result in enumerate(expected):
        assert found[number].values == result.values
        if room == 1200:
            stats = found[number].stats
            assert stats.hits_predicted == stats.hits_measured <= stats.sent_tokens
        # The plan leaves out text that nothing reads after the last gen.
        assert toy.tokenizer.decode(result.ids).startswith(found[number].text)
    if room == 1200:
        ideal = ideal_hits(trace.calls)
        assert sum(result.stats.hits_measured for result in found.values()) == ideal.measured
        assert sum(result.stats.sent_tokens for result in found.values()) == ideal.sent
    toy.assert_clean(executable)


LONG = """program random(arg: str) -> str:
    "{arg}"
    inline other("LONG")
    gen g1(max_tokens=3)
    inline other("LONG")
    return g1
""".replace("LONG", "long " * 9)


@pytest.mark.parametrize("room", [64, 80])
def test_nothing_is_left_on_its_way_when_a_row_does_not_fit(toy, room):
    executable = toy.compile(
        OTHER + LONG, seed=3, num_pages=room // 4, page_size=4, max_batch=8, max_tokens=64,
        ahead=True,
    )  # fmt: skip
    with pytest.raises(KVTooSmall):
        list(in_steps(executable, [{"arg": "hello"}, {"arg": "he"}, {"arg": "a b"}]))
    toy.assert_clean(executable)
