"""The parts below calls: patterns as grammars, shared answers, waits, prompts."""

from __future__ import annotations

import importlib.util
import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.frontend.semantics.constraints import integer_pattern
from weft.runtime.remote.address import Address
from weft.runtime.remote.consecutive import Step, split, within_budget
from weft.runtime.remote.errors import BadRemoteModel
from weft.runtime.remote.failures import LONGEST_WAIT, delay_of, message_of
from weft.runtime.remote.gbnf import NoGrammar, gbnf_of
from weft.runtime.remote.prompt import PlainFormat, Stream
from weft.runtime.remote.validity import fits, ordered
from weft.tests.each_time import examples

# Patterns as grammars.


@pytest.mark.parametrize(
    "pattern, grammar",
    [
        ("ab|c", 'root ::= ("a" "b" | "c")'),
        ("[a-c]{2,3}", "root ::= ([a-c]){2,3}"),
        (r"[^\]\d]*", r"root ::= ([^\x5d0-9])*"),
        (r'a?"\\', r'root ::= ("a"){0,1} "\"" "\\"'),
        (r"(?:x+).", r'root ::= ("x")+ [^\x0a]'),
        ("", 'root ::= ""'),
    ],
)
def test_patterns_read_as_grammars(pattern, grammar):
    assert gbnf_of(pattern) == grammar


def test_the_healed_space_stands_before():
    assert gbnf_of("a", " ") == 'root ::= " " "a"'


@pytest.mark.parametrize(
    "pattern", ["(?=a)b", r"(a)\1", r"^a", "a{5000}", "a{5000,}", "(?i:a)", r"[\W]"]
)
def test_what_a_grammar_cannot_say_is_refused(pattern):
    with pytest.raises(NoGrammar) as error:
        gbnf_of(pattern)
    assert repr(pattern) in str(error.value)


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="needs llama_cpp")
@pytest.mark.parametrize(
    "pattern", [integer_pattern(-12, 345), r'\{"a": "(?:[^"\\\x00-\x1f\x7f]|\\["\\/]){0,12}"\}',
                "(?:yes|no|a\\.b)", r"[A-Z]{2}[0-9]{3}", r"[\s\S]*", "ü[é-ñ]+"]
)  # fmt: skip
def test_llama_reads_the_grammars(pattern, capfd):
    from llama_cpp import LlamaGrammar  # type: ignore[import-not-found]
    from llama_cpp._internals import LlamaSampler  # type: ignore # noqa: F401  # it is whole

    assert LlamaGrammar.from_string(gbnf_of(pattern), verbose=False)
    assert "error" not in capfd.readouterr().err


# Shared answers.

TEXTS = st.text(alphabet="ab., \n", max_size=12)


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[Step], list[str], str]:
    """Steps, texts without their stops, and the answer that says all of it."""
    count = draw(st.integers(1, 4))
    steps, texts, answer = [], [], ""
    for number in range(count):
        stop = draw(st.sampled_from([".", ",", "\n", "b,"]))
        text = draw(TEXTS.filter(lambda text, stop=stop: stop not in text + stop[:-1]))
        literal = "" if number == count - 1 else stop + draw(st.text(alphabet="xy ", max_size=4))
        steps.append(Step((stop,), 8, literal))
        texts.append(text)
        answer += text + (literal or stop)
    return steps, texts, answer


@settings(deadline=None)
@given(chains(), TEXTS)
def test_an_answer_that_says_all_is_taken_apart(chain, more):
    steps, texts, answer = chain
    found = split(answer + more, steps, over=True)
    assert list(found.texts) == texts and found.ended


@settings(deadline=None)
@given(chains(), st.data())
def test_a_part_of_an_answer_gives_a_part_of_the_texts(chain, data):
    """What is known of a beginning stays true; it ends only when all is known."""
    steps, texts, answer = chain
    size = data.draw(st.integers(0, len(answer)))
    found = split(answer[:size], steps, over=False)
    assert list(found.texts) == texts[: len(found.texts)]
    assert found.ended == (len(found.texts) == len(texts))


@settings(deadline=None)
@given(chains(), TEXTS, st.integers(0, 3))
def test_no_text_holds_its_stop_and_all_join_to_the_answer(chain, said, cut):
    steps, _, _ = chain
    found = split(said, steps, over=True, cut=bool(cut))
    joined = "".join(text + step.literal for text, step in zip(found.texts, steps, strict=False))
    last = steps[len(found.texts) - 1].literal if found.texts else ""
    assert said.startswith(joined.removesuffix(last) if last else joined)
    for text, step in zip(found.texts, steps, strict=False):
        assert not any(stop in text for stop in step.stops)


def test_the_last_text_of_a_cut_answer_is_not_known():
    steps = [Step((".",), 4, ". "), Step((), 4)]
    assert split("a. b", steps, over=True, cut=True).texts == ("a",)
    assert split("a. b", steps, over=True).texts == ("a", "b")


def test_budgets_are_kept_by_bytes_or_by_count():
    step = Step((), 4)
    assert within_budget("four", step, None) and not within_budget("fivee", step, None)
    assert within_budget("many letters", step, 3) and not within_budget("üüü", step, 9)


# Waits and messages of failures.


@pytest.mark.parametrize(
    "headers, seconds",
    [({}, 0), ({"retry-after": "7"}, 7), ({"retry-after-ms": "1500"}, 1.5),
     ({"retry-after": "1e9"}, LONGEST_WAIT), ({"retry-after": "soon"}, 0),
     ({"retry-after": "-3"}, 0)],
)  # fmt: skip
def test_waits_that_servers_ask_for(headers, seconds):
    assert delay_of(headers) == seconds


def test_a_wait_may_be_a_date():
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 20 < delay_of({"retry-after": then}) <= 30


@pytest.mark.parametrize(
    "body, message, code",
    [
        ('{"error": {"message": "a", "code": "b"}}', "a", "b"), ('{"detail": "a"}', "a", ""),
        ('{"error": "a"}', "a", ""), ("plain  text", "plain text", ""),
        ('{"object": "error", "message": "a", "type": "b"}', "a", "b"), ("", "no reason given", ""),
    ],
)  # fmt: skip
def test_messages_of_all_forms(body, message, code):
    assert message_of(body) == (message, code)


# Addresses, prompts, values.


def test_addresses():
    address = Address.parse("openai:https://h:1/v1/#org/name")
    assert (address.base, address.name) == ("https://h:1/v1", "org/name")
    assert address.url("/extras/x") == "https://h:1/extras/x"
    assert address.url("/models") == "https://h:1/v1/models"
    for base in ("ftp://h", "http://me:secret@a..b/v1", "http://me:secret@h:99999/v1"):
        with pytest.raises(BadRemoteModel) as caught:
            Address.parse(f"openai:{base}#m")
        assert "secret" not in caught.value.render()
    with pytest.raises(BadRemoteModel, match="query") as caught:
        Address.parse("openai:https://h/v1?key=secret#m")
    assert "secret" not in caught.value.render()


def test_streams_as_messages_and_as_text():
    stream = Stream().begin("user").plus("a").plus("b").end().begin("assistant")
    assert stream.messages() == [{"role": "user", "content": "ab"}]
    opened = stream.plus("c")
    assert opened.messages()[-1] == {"role": "assistant", "content": "c"}
    assert opened.text(PlainFormat()) == "user: ab\nassistant: c"
    assert Stream().plus("x").plus("").plus("y").text(PlainFormat()) == "xy"
    silent = Stream().plus("", said=True).begin("user").plus("a")
    assert silent.messages() == [{"role": "user", "content": "a"}], "a gen that said nothing"


@settings(max_examples=examples(30), deadline=None)
@given(st.integers(-50, 50), st.booleans())
def test_schemas_are_checked_in_any_order_of_keys(number, swapped):
    schema = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0},
              "b": {"type": "boolean"}}, "required": ["a", "b"],
              "additionalProperties": False}  # fmt: skip
    import json

    value = {"b": True, "a": number} if swapped else {"a": number, "b": True}
    text = json.dumps(ordered(value, schema))
    assert fits("json", json.dumps(schema), text) == (number >= 0)


def test_grammars_are_checked():
    grammar = 'start: "a" rest\nrest: /[0-9]+/ | "(" rest ")"\n'
    assert fits("lark", grammar, "a((12))") and not fits("lark", grammar, "a((12)")


def test_the_pattern_of_free_text_allows_any_line():
    assert re.fullmatch(r"[\s\S]*", "a\nb") and "\\x0a" in gbnf_of(r"[\s\S]*")
