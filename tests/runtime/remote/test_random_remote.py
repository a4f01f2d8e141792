"""Random greedy programs: a run over an endpoint says what the oracle says of the same model.

The model is a toy over bytes, so that text and tokens are the same thing; the endpoint serves it
with stops, patterns, echoed log-probabilities and streams.
"""

from __future__ import annotations

import json
import zlib
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import weft
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weft.frontend.checkpoints.chat_template import PlainChat
from weft.frontend.lowering.lower import lower
from weft.frontend.semantics.checker import check
from weft.frontend.semantics.constraints import constraint_of
from weft.frontend.text.parser import parse_text
from weft.ir.diagnostics import WeftError
from weft.runtime.reference import Reference
from weft.runtime.simulator import ToyTokenizer
from weft.tests.each_time import examples

TOKENIZER = ToyTokenizer()
SAID = b"ab ,.\n3{"
"""What the toy says of itself; patterns may make it say anything else."""


@cache
def logits_of(ids: tuple[int, ...]) -> torch.Tensor:
    """Logits [V] by a hash of all that was read; the toy likes its own letters, and to go on."""
    seed = zlib.crc32(repr(ids).encode())
    values = np.random.default_rng(seed).normal(size=TOKENIZER.size) - 9.0
    for byte in SAID:
        values[byte + 5] += 9.0
    values[TOKENIZER.END] += 8.0
    if ids[-1:] == (ord(",") + 5,) and seed % 3:  # often what the programs have as a literal
        values[ord(" ") + 5] += 9.0
    return torch.from_numpy(values.astype(np.float32))


def ids_of(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode(text))


class ToyEndpoint:
    """Answers completions as servers do that take patterns in a field `regex`."""

    def __init__(self, fake: Any) -> None:
        self._fake = fake

    def __call__(self, body: dict[str, Any]) -> Any:
        if body.get("echo"):
            return self._echoed(body["prompt"])
        text, finish = self._generated(body)
        return self._fake.streamed(list(text), finish) if body.get("stream") else self._fake.said(
            text, finish
        )  # fmt: skip

    def _generated(self, body: dict[str, Any]) -> tuple[str, str]:
        allowed = Allowed(body.get("regex"))
        said = ""
        for _ in range(body["max_tokens"]):
            values = logits_of(ids_of(body["prompt"] + said)).clone()
            values[~allowed.mask()] = -torch.inf
            token = int(values.argmax())
            if token == TOKENIZER.END:
                return said, "stop"
            said += chr(token - 5)
            allowed.take(token - 5)
            places = [said.find(stop) for stop in body.get("stop") or () if stop in said]
            if places:
                return said[: min(places)], "stop"
            if allowed.complete():
                return said, "stop"
        return said, "length"

    def _echoed(self, prompt: str) -> Any:
        ids = ids_of(prompt)
        values = [None] + [
            float(logits_of(ids[:at]).log_softmax(0)[ids[at]]) for at in range(1, len(ids))
        ]
        tokens = [chr(id - 5) for id in ids]
        given = {"tokens": [*tokens, "!"], "token_logprobs": [*values, -1.0]}
        return self._fake.said(prompt + "!", logprobs=given)


class Allowed:
    """The bytes that a pattern allows next; free text allows ASCII and the end."""

    def __init__(self, pattern: str | None) -> None:
        from llguidance import LLMatcher, LLTokenizer

        self._matcher = None
        if pattern is not None:
            grammar = LLMatcher.grammar_from_regex(pattern)
            self._matcher = LLMatcher(LLTokenizer("byte"), grammar, log_level=0)

    def mask(self) -> torch.Tensor:
        mask = torch.zeros(TOKENIZER.size, dtype=torch.bool)
        if self._matcher is None:
            mask[5:133] = True
            mask[TOKENIZER.END] = True
            return mask
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[:256].astype(bool)
        mask[5:261] = torch.from_numpy(allowed)
        mask[133:] = False
        mask[TOKENIZER.END] = self._matcher.is_accepting()
        return mask

    def take(self, byte: int) -> None:
        if self._matcher is not None:
            self._matcher.consume_token(byte)

    def complete(self) -> bool:
        """Whether nothing may follow: the gen has ended."""
        return self._matcher is not None and self._matcher.is_stopped()


TEXTS = st.sampled_from(["a", " b ", "{arg}.", ", ", ",", "long " * 4, "x: ", "\\n"])
STOPS = st.sampled_from(["", "", ', stop=","', ', stop=[",", "."]', ', stop=regex "[ab] ?[3,]"'])
TYPES = st.sampled_from(["int(0..20)", "bool", 'choice["a", "ab", "the end"]', 'regex "a+b?"'])


@st.composite
def programs(draw: st.DrawFn) -> str:
    writer = Writer(draw)
    lines = writer.block(0, draw(st.integers(2, 5)))
    return 'program p(arg: str) -> int:\n    "Go"\n' + "\n".join(lines) + "\n    return 7\n"


class Writer:
    """Writes blocks of statements; each name is bound once."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._number = 0

    def block(self, depth: int, size: int, message: bool = False) -> list[str]:
        kinds = ["text", "gen", "gens", "gens", "typed", "select", "score"]
        if depth < 2:
            kinds += ["fork", "if", "join"] + ([] if message else ["message"])
        lines = []
        for _ in range(size):
            lines += getattr(self, "_" + self._draw(st.sampled_from(kinds)))(depth, message)
        return ["    " + line for line in lines]

    def _name(self) -> str:
        self._number += 1
        return f"n{self._number}"

    def _text(self, depth: int, message: bool) -> list[str]:
        return [f'"{self._draw(TEXTS)}"']

    def _gen(self, depth: int, message: bool) -> list[str]:
        budget = self._draw(st.integers(1, 9))
        return [f"gen {self._name()}(max_tokens={budget}{self._draw(STOPS)})"]

    def _gens(self, depth: int, message: bool) -> list[str]:
        """Gens that may share a call."""
        lines = []
        for _ in range(self._draw(st.integers(2, 3))):
            literal = self._draw(st.sampled_from([",", ", ", ", a", ",{{"]))
            lines += [f'gen {self._name()}(max_tokens=9, stop=",")', f'"{literal}"']
        return lines

    def _typed(self, depth: int, message: bool) -> list[str]:
        return [f"gen {self._name()}(max_tokens=24): {self._draw(TYPES)}"]

    def _select(self, depth: int, message: bool) -> list[str]:
        by = self._draw(st.sampled_from(["", '(by="greedy")']))
        return [f'select {self._name()}{by} from ["a", "ab", "3 b", "{{arg}}c"]']

    def _score(self, depth: int, message: bool) -> list[str]:
        return [f'let {self._name()} = score("{self._draw(st.sampled_from(["a", "b a"]))}")']

    def _fork(self, depth: int, message: bool) -> list[str]:
        body = self.block(depth + 1, self._draw(st.integers(1, 3)), message)
        head = f"fork {self._draw(st.integers(1, 3))} as {self._name()}:"
        return ['"|"', head, *body, "    yield 1"]  # a fork is a token boundary: no space there

    def _join(self, depth: int, message: bool) -> list[str]:
        name = self._name()
        body = self.block(depth + 1, self._draw(st.integers(1, 2)), message)
        head = f"fork 2 as {name}:"
        return ['"|"', head, *body, '    yield score("ab")', f"join best(by={name})"]

    def _if(self, depth: int, message: bool) -> list[str]:
        body = self.block(depth + 1, self._draw(st.integers(1, 2)), message)
        return [f"if len(arg) > {self._draw(st.integers(0, 4))}:", *body]

    def _message(self, depth: int, message: bool) -> list[str]:
        role = self._draw(st.sampled_from(["user", "assistant"]))
        return [f"{role}:", *self.block(depth + 1, self._draw(st.integers(1, 3)), True)]


def oracle(text: str) -> Reference:
    file = parse_text(text)
    check(file)
    module = lower(file)
    return Reference(
        module, "p", lambda ids: logits_of(tuple(ids)), TOKENIZER, PlainChat(), constraint_of
    )  # fmt: skip


@settings(
    max_examples=examples(60), deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(text=programs(), merge=st.booleans(), hears=st.booleans())
def test_a_remote_run_equals_the_oracle(fake, text, merge, hears):
    try:
        expected = oracle(text).run(arg="he")
    except WeftError:
        return  # a value that its budget cut short
    fake.asked.clear()
    fake.answers(ToyEndpoint(fake))
    executable = weft.compile(
        text, fake.model, remote_merge=merge, remote_api="completions", remote_dialect="sglang"
    )
    result = list(executable.stream(arg="he"))[-1].result if hears else executable.run(arg="he")
    assert json.dumps(result.values) == json.dumps(expected.values), text
    assert result.text == TOKENIZER.decode(expected.ids), text


def test_the_toy_shares_calls_in_such_programs(fake):
    """What the property is about does happen: fewer calls with merging, and the same texts."""
    text = 'program p() -> str:\n    "Go"\n' + "".join(
        f'    gen g{n}(max_tokens=40, stop=",")\n    ","\n' for n in range(6)
    ) + "    return g5\n"  # fmt: skip
    fake.answers(ToyEndpoint(fake))
    options: dict[str, Any] = {"remote_dialect": "sglang"}
    apart = weft.compile(text, fake.model, remote_merge=False, **options)
    together = weft.compile(text, fake.model, **options)
    assert apart.run().values == together.run().values
    assert together.engine.steps < apart.engine.steps


@pytest.mark.parametrize("pattern, text", [("a+b?", "aab"), (" [\\s\\S]*", " x")])
def test_the_toy_obeys_patterns(pattern, text):
    allowed = Allowed(pattern)
    for char in text:
        assert allowed.mask()[ord(char) + 5]
        allowed.take(ord(char))
    assert allowed.mask()[TOKENIZER.END]
