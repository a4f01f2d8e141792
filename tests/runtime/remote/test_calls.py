"""Programs on a scripted endpoint: what is asked, in which form, side by side or together."""

from __future__ import annotations

import json

import pytest
import weft
from weft.runtime.programs.events import Finished, PartialValue, TextPiece, ValueBound

GREET = """
program greet(name: str) -> str:
    system "Be kind."
    user "I am {name}."
    assistant gen answer(max_tokens=9, stop=["!", "?"])
    user "Again."
    assistant gen more(max_tokens=5, temperature=0.5, top_p=0.9, seed=3)
    return answer + more
"""

STORY = """
program story(hero: str) -> str:
    "There was a {hero}. "
    gen deed(max_tokens=12, stop=".")
    ". Then "
    gen end(max_tokens=12, stop=".")
    return deed + "|" + end
"""


def test_messages_are_asked_as_chat(fake):
    result = weft.compile(GREET, fake.answers(fake.said("Hi Bo"), fake.said("Ho")).model).run(
        name="Bo"
    )
    assert result.value == "Hi BoHo" and result.values == {"answer": "Hi Bo", "more": "Ho"}
    (path, first), (_, second) = fake.asked
    assert path == "/chat/completions" and first["model"] == "m"
    assert first["messages"] == [
        {"role": "system", "content": "Be kind."}, {"role": "user", "content": "I am Bo."},
    ]  # fmt: skip
    assert (first["max_tokens"], first["temperature"], first["stop"]) == (9, 0.0, ["!", "?"])
    assert "seed" not in first and second["seed"] >= 0
    assert second["messages"][2] == {"role": "assistant", "content": "Hi Bo"}
    assert (second["temperature"], second["top_p"]) == (0.5, 0.9)
    assert result.stats.prompt_tokens == 14 and result.stats.steps == 2
    assert "14 prompt" in str(result.stats) and "KV" not in str(result.stats)


def test_plain_text_is_asked_as_completions(fake):
    text = (
        'program p(a: int) -> str:\n    "Count: {a},"\n    gen next(max_tokens=4)\n    return next'
    )
    fake.answers(fake.said(" 2"))
    assert weft.compile(text, fake.model).run(a=1).value == " 2"
    path, body = fake.asked[0]
    assert path == "/completions" and body["prompt"] == "Count: 1," and body["max_tokens"] == 4


def test_an_endpoint_without_chat_gets_messages_as_text(fake):
    fake.missing.add("/chat/completions")
    fake.answers(fake.said(" Hi Bo"), fake.said(" Ho"))
    assert weft.compile(GREET, fake.model).run(name="Bo").value == "Hi BoHo"
    assert fake.prompts[0] == "system: Be kind.\nuser: I am Bo.\nassistant:"


def test_a_template_writes_messages_as_the_model_knows_them(fake):
    fake.answers(fake.said("x"))
    weft.compile(GREET, fake.model, remote_template="tiny-dense").run(name="Bo")
    assert fake.prompts[0] == (
        "<|bos|><|system|>\nBe kind.<|end|>\n<|user|>\nI am Bo.<|end|>\n<|assistant|>\n"
    )


def test_the_space_before_a_gen_is_left_to_the_model(fake):
    fake.answers(fake.said(" fought. He"))
    executable = weft.compile(STORY, fake.model, remote_merge=False)
    assert executable.run(hero="knight").values["deed"] == "fought"
    assert fake.prompts[0] == "There was a knight."
    fake.asked.clear()
    fake.answers(fake.said("\nfought. He"))  # no space: asked again as it is written
    assert executable.run(hero="knight").values["deed"] == "\nfought"
    assert fake.prompts[:2] == ["There was a knight.", "There was a knight. "]


def test_consecutive_gens_share_a_call(fake):
    fake.answers(fake.streamed([" fought.", " Then", " won. And", " so on"]))
    result = weft.compile(STORY, fake.model).run(hero="knight")
    assert result.value == "fought|won" and len(fake.asked) == 1
    assert result.text == "There was a knight. fought. Then won"
    assert "stop" not in fake.asked[0][1] and fake.asked[0][1]["max_tokens"] == 12 + 12 + 7


@pytest.mark.parametrize(
    "pieces, why",
    [
        ([" fought. And", " so"], "the model says something else than the literal"),
        ([" fought. The", "y"], "it begins like the literal"),
        ([" fought"], "it ends before the literal"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_a_literal_that_is_not_said_costs_a_call_of_its_own(fake, pieces, why):
    fake.answers(fake.streamed(pieces), fake.said(" won"))
    result = weft.compile(STORY, fake.model).run(hero="knight")
    assert result.value == "fought|won" and len(fake.asked) == 2
    assert fake.prompts[1] == "There was a knight. fought. Then"


def test_a_shared_answer_never_gives_a_gen_more_than_its_budget(fake):
    long = " a very long deed of many words that goes on and on."
    fake.answers(fake.streamed([long, " Then won."]), fake.said(" short"), fake.said(" end"))
    result = weft.compile(STORY, fake.model).run(hero="knight")
    assert result.value == "short|end" and fake.asked[1][1]["max_tokens"] == 12


def test_branches_are_asked_side_by_side_up_to_the_limit(fake):
    text = """
program p() -> list[str]:
    user "Go."
    fork 6 as all:
        user "Branch."
        assistant gen word(max_tokens=2, temperature=1.0)
        yield word
    return all
"""
    reply = fake.said("x")
    reply.wait, fake.together = 0.1, 3
    executable = weft.compile(text, fake.answers(reply).model, remote_concurrency=3)
    assert executable.run().value == ["x"] * 6
    assert fake.most == 3
    assert len({body["seed"] for _, body in fake.asked}) == 6


def test_what_does_not_wait_for_an_answer_is_asked_at_once(fake):
    text = """
tool note(word: str) -> str

program other() -> str:
    user "Other."
    assistant gen word(max_tokens=2)
    return word

program p() -> list[str]:
    user "Go."
    fork 2 as first:
        user "One."
        assistant gen word(max_tokens=2)
        yield word
    fork 2 as second:
        user "Two."
        assistant gen word(max_tokens=2)
        yield word
    let third = call other()
    user "{note(third)}"
    assistant gen last(max_tokens=2)
    return first + second + [third, last]
"""
    reply = fake.said("x")
    reply.wait, fake.together = 0.2, 5
    seen = []
    tools = {"note": lambda word: seen.append(len(fake.asked)) or word}
    executable = weft.compile(text, fake.answers(reply).model, tools=tools)
    assert executable.run().value == ["x"] * 6
    assert fake.most == 5, "the last gen alone waits, for the tool"
    assert seen == [5], "a tool that may have effects waits for all that stands before it"


def test_rows_run_side_by_side_and_resume(fake, tmp_path):
    text = 'program p(n: int) -> str:\n    "{n}"\n    gen word(max_tokens=2)\n    return word'
    fake.answers(lambda body: fake.said("r" + body["prompt"]))
    out = tmp_path / "out.jsonl"
    executable = weft.compile(text, fake.model)
    rows = executable.run_rows([{"n": n} for n in range(20)], out)
    assert rows.values == [f"r{n}" for n in range(20)]
    assert [json.loads(line)["value"] for line in out.read_text().splitlines()] == rows.values
    assert rows.stats.steps == 20


def test_tools_loops_calls_and_joins(fake):
    text = """
tool shout(word: str) -> str

program ask(topic: str) -> str:
    user "About {topic}?"
    assistant gen reply(max_tokens=3)
    return reply

program p(topics: list[str]) -> str:
    let found: list[str] = []
    for topic in topics:
        let one = call ask(topic)
        found += [shout(one)]
    user "All: {found}"
    fork 2 as points:
        assistant gen word(max_tokens=2)
        yield len(word)
    join best(by=points)
    let last = inline ask("it")
    match last:
        case "end":
            return "ended"
        case _:
            return last
"""
    answers = {"About a?": "A", "About b?": "B", "About it?": "end"}

    def reply(body):
        return fake.said(answers.get(body["messages"][-1]["content"], "s"))

    executable = weft.compile(text, fake.answers(reply).model, tools={"shout": str.upper})
    result = executable.run(topics=["a", "b"])
    assert result.value == "ended"
    assert fake.prompts[2][0]["content"] == 'All: ["A", "B"]'
    assert fake.prompts[-1][-1]["content"] == "About it?"


def test_streams_tell_pieces_values_and_the_end(fake):
    text = """
record R:
    a: str
    b: int

program p() -> R:
    user "Go."
    assistant gen word(max_tokens=9, stop="END")
    user "R"
    assistant gen r(max_tokens=40): R
    return r
"""
    fake.answers(
        fake.streamed(["one ", "two E", "x E", "ND more"]),
        fake.streamed(['{"a": "x",', ' "b": 2}']),
    )
    events = list(weft.compile(text, fake.model).stream())
    texts = [event.text for event in events if isinstance(event, TextPiece)]
    assert "".join(texts).startswith("one two Ex ") and "END" not in "".join(texts)
    assert PartialValue("r", {"a": "x"}) in events
    assert ValueBound("word", "one two Ex ") in events
    assert isinstance(events[-1], Finished) and events[-1].result.value == {"a": "x", "b": 2}


def test_a_pattern_ends_a_gen_here(fake):
    text = 'program p() -> str:\n    "Go"\n    gen word(stop=regex "[0-9]+")\n    return word'
    fake.answers(fake.streamed(["ab", "c1", "2d"]))
    assert weft.compile(text, fake.model).run().value == "abc"
