"""Programs on a scripted endpoint: what is asked, in which form, side by side or together."""

from __future__ import annotations

import json

import pytest
import weft
from weft.ir.diagnostics import WeftError
from weft.passes.program.remote_calls import NoBaseline, NotOverChat
from weft.runtime.events import Finished, PartialValue, TextPiece, ValueBound
from weft.runtime.remote.errors import Lacks, WrongValue

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
    reply.wait = 0.1
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
    reply.wait = 0.2
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


# Types.


def typed(type: str) -> str:
    returns = type if type in {"R", "bool"} else "int"
    return f"""
record R:
    a: str
    b: int(1..9)

program p() -> {returns}:
    user "Go"
    assistant gen x(max_tokens=20): {type}
    return x
"""


@pytest.mark.parametrize(
    "type, said, value",
    [("int", "7", 7), ("R", '{"b": 3, "a": "x"}', {"a": "x", "b": 3}), ("bool", " true\n", True)],
)
def test_a_value_of_its_type_is_accepted(fake, type, said, value):
    fake.answers(fake.said(said))
    executable = weft.compile(typed(type), fake.model, remote_dialect="plain")
    assert executable.run().value == value


@pytest.mark.parametrize("type, said", [("int", "seven"), ("R", '{"a": "x"}'), ("R", "{"),
                                        ("R", '{"a": "x", "b": 12}'), ("bool", "yes")])  # fmt: skip
def test_a_value_of_no_type_is_refused(fake, type, said):
    fake.answers(fake.said(said))
    executable = weft.compile(typed(type), fake.model, remote_dialect="plain")
    with pytest.raises(WrongValue) as error:
        executable.run()
    assert error.value.span is not None and "type" in error.value.hint_text


def test_a_schema_file_is_checked_here_too(fake, tmp_path):
    (tmp_path / "s.json").write_text(
        '{"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, '
        '"required": ["a"], "additionalProperties": false}'
    )
    program = tmp_path / "p.weft"
    program.write_text(
        'program p() -> str:\n    user "Go"\n    assistant gen x: schema "s.json"\n    return "k"\n'
    )
    executable = weft.compile(program, fake.answers(fake.said('{"b": "y", "a": 1}')).model)
    assert executable.run().values["x"] == {"b": "y", "a": 1}
    fake.answers(fake.said('{"a": "1"}'))
    with pytest.raises(WrongValue, match="schema"):
        executable.run()


def test_a_drawn_answer_is_asked_for_again(fake):
    text = typed("int").replace("max_tokens=20", "max_tokens=20, temperature=1.0")
    fake.answers(fake.said("x"), fake.said("y"), fake.said("5"))
    assert weft.compile(text, fake.model, remote_dialect="plain").run().value == 5
    seeds = [body["seed"] for _, body in fake.asked]
    assert len(set(seeds)) == 3


def test_openai_holds_by_a_json_schema(fake):
    fake.answers(fake.said('{"value": 4}'))
    result = weft.compile(typed("int(1..9)"), fake.model, remote_dialect="openai").run()
    assert result.values["x"] == 4 and result.text.endswith("assistant: 4\n")
    form = fake.asked[0][1]["response_format"]
    assert form["type"] == "json_schema" and form["json_schema"]["strict"] is True
    value = form["json_schema"]["schema"]["properties"]["value"]
    assert value == {"type": "integer", "minimum": 1, "maximum": 9}


@pytest.mark.parametrize(
    "dialect, field, type",
    [
        ("vllm", "structured_outputs", "int"), ("sglang", "regex", "int"),
        ("llama.cpp", "grammar", "int"), ("llama-cpp-python", "grammar", "R"),
        ("vllm", "structured_outputs", "R"), ("sglang", "json_schema", "R"),
    ],
)  # fmt: skip
def test_servers_hold_by_extensions_of_their_own(fake, dialect, field, type):
    fake.answers(fake.said("7" if type == "int" else '{"a": "x", "b": 3}'))
    weft.compile(typed(type), fake.model, remote_dialect=dialect).run()
    body = fake.asked[0][1]
    assert field in body and "min_p" in body and "response_format" not in body


def test_the_model_list_tells_the_dialect(fake):
    fake.models = [{"id": "m", "owned_by": "vllm"}]
    fake.answers(fake.said("7"))
    weft.compile(typed("int"), fake.model).run()
    assert "structured_outputs" in fake.asked[0][1]


# Log-probabilities.

PICK = """
program p() -> str:
    user "Go"
    assistant select s{by} from ["A", "Bee"]
    return s
"""


def top(**logprobs: float) -> dict:
    rows = [{"token": token, "logprob": value} for token, value in logprobs.items()]
    return {"content": [{"token": "?", "logprob": -1.0, "top_logprobs": rows}]}


def test_select_goes_by_first_tokens_over_chat(fake):
    fake.answers(fake.said("B", logprobs=top(B=-0.7, A=-1.4, C=-3.0)))
    result = weft.compile(PICK.format(by='(by="greedy")'), fake.model).run()
    assert result.value == "Bee" and result.values["s"].probs["A"] == pytest.approx(0.332, abs=0.01)
    assert fake.asked[0][1]["top_logprobs"] == 20 and fake.asked[0][1]["max_tokens"] == 1


@pytest.mark.parametrize(
    "by, logprobs, says",
    [
        ("", {"B": -0.7, "A": -1.4}, "more than one token"),
        ('(by="greedy")', {"X": -0.1}, "none of its options"),
        ('(by="greedy")', None, "no log-probabilities"),
    ],
)
def test_a_select_that_the_endpoint_cannot_decide_is_refused(fake, by, logprobs, says):
    more = {} if logprobs is None else {"logprobs": top(**logprobs)}
    fake.answers(fake.said("B", **more))
    with pytest.raises(Lacks, match=says) as error:
        weft.compile(PICK.format(by=by), fake.model).run()
    assert "<program>:4:" in str(error.value) and error.value.hint_text


ECHO = """
program p() -> str:
    "Is it "
    let s = score("so")
    select w from ["A", "Bee"]
    return "{w} {s}"
"""


def echo(fake):
    def reply(body):
        prompt = body["prompt"]
        tokens = [prompt[at : at + 2] for at in range(0, len(prompt), 2)]
        values = [None, *(-0.5 if "B" in prompt else -1.0 for _ in tokens)]
        return fake.said(
            prompt + "!", logprobs={"tokens": [*tokens, "!"], "token_logprobs": values}
        )

    return reply


def test_echoed_prompts_give_select_and_score(fake):
    result = weft.compile(ECHO, fake.answers(echo(fake)).model).run()
    assert result.value == "Bee -2.0", "the space before a text is scored with it"
    probs = result.values["w"].probs
    assert probs["A"] + probs["Bee"] == pytest.approx(1.0)
    assert fake.asked[0][1]["echo"] is True


def test_an_endpoint_that_echoes_nothing_is_named(fake):
    with pytest.raises(Lacks, match="echo") as error:
        weft.compile(ECHO, fake.answers(fake.said("x")).model).run()
    assert "<program>:4:" in str(error.value)


def test_logprobs_of_a_gen(fake):
    text = """
program p() -> list[float]:
    user "Go"
    assistant gen w(logprobs=true, stop=".")
    return w.logprobs
"""
    tokens = [{"token": "ab", "logprob": -0.5}, {"token": "c.", "logprob": -0.25},
              {"token": "d", "logprob": -9.0}]  # fmt: skip
    executable = weft.compile(
        text, fake.answers(fake.said("abc.d", logprobs={"content": tokens})).model
    )
    assert executable.run().value == [-0.5, -0.25]
    fake.answers(fake.said("abc"))
    with pytest.raises(Lacks, match="no log-probabilities"):
        executable.run()


# Open messages.

OPENED = """
program p() -> str:
    user "Go"
    assistant:
        "Grade: "
        gen g(max_tokens=3)
    return g
"""


def prompts_of(tokens):
    """Count prompt tokens as a server that continues an open message, or does not."""

    def reply(fake):
        def answer(body):
            reply = fake.said("B")
            reply.body["usage"]["prompt_tokens"] = tokens(body)
            return reply

        return answer

    return reply


def test_an_open_message_is_continued_where_the_server_can(fake):
    def tokens(body):
        continued = body.get("continue_final_message", False)
        return 4 + len(body["messages"]) + (0 if continued else 5 * (len(body["messages"]) > 1))

    fake.answers(prompts_of(tokens)(fake))
    executable = weft.compile(OPENED, fake.model, remote_dialect="vllm")
    assert executable.run().value == "B"
    body = fake.asked[-1][1]
    assert body["messages"][-1] == {"role": "assistant", "content": "Grade: "}
    assert body["continue_final_message"] is True and body["add_generation_prompt"] is False


def test_an_open_message_that_would_be_closed_is_refused(fake):
    fake.answers(prompts_of(lambda body: 4 * len(body["messages"]))(fake))
    with pytest.raises(Lacks, match="closes the message") as error:
        weft.compile(OPENED, fake.model).run()
    assert "<program>:6:" in str(error.value) and "template" in error.value.hint_text


def test_who_may_say_that_it_can(fake):
    fake.answers(fake.said(" B"))
    executable = weft.compile(OPENED, fake.model, remote_prefill="yes")
    assert executable.run().value == "B" and len(fake.asked) == 1


@pytest.mark.parametrize("option", ["top_k=4", "min_p=0.1"])
def test_sampling_that_the_api_has_not_needs_a_known_server(fake, option):
    text = f'program p() -> str:\n    "Go"\n    gen x({option})\n    return x'
    with pytest.raises(Lacks, match=option.split("=")[0]) as error:
        weft.compile(text, fake.answers(fake.said("x")).model).run()
    assert "<program>:3:" in str(error.value) and not fake.asked
    assert weft.compile(text, fake.model, remote_dialect="vllm").run().value == "x"


def test_options_are_scored_side_by_side(fake):
    options = ", ".join(f'"{word}"' for word in ("one", "two", "three", "four"))
    text = f'program p() -> str:\n    "Go"\n    select x from [{options}]\n    return x'

    def reply(body):
        found = echo(fake)(body)
        found.wait = 0.1
        return found

    weft.compile(text, fake.answers(reply).model).run()
    assert len(fake.asked) == 4 and fake.most == 3


def test_a_select_finds_out_that_there_is_no_chat(fake):
    fake.missing.add("/chat/completions")
    fake.answers(fake.said("A", logprobs={"top_logprobs": [{"A": -0.1, "B": -3.0}]}))
    result = weft.compile(PICK.format(by='(by="greedy")'), fake.model).run()
    assert result.value == "A" and fake.asked[0][0] == "/completions"


# What is refused when compiling.


@pytest.mark.parametrize(
    "statement, line, says",
    [
        ('    user gen x\n    return x', 3, "user message"),
        ('    "outside"\n    assistant gen x\n    return x', 3, "outside of all messages"),
        ('    assistant gen x\n    gen y\n    return x', 4, "outside of all messages"),
        ('    let f = score("a")\n    assistant gen x\n    return x', 3, "score"),
    ],
)  # fmt: skip
def test_what_chat_cannot_say_is_refused_with_its_place(statement, line, says):
    text = f'program p() -> str:\n    user "Go"\n{statement}\n'
    with pytest.raises(NotOverChat, match=says) as error:
        weft.compile(text, "openai:http://localhost:1/v1#m")
    assert f"<program>:{line}:" in str(error.value)


def test_unconditional_select_is_refused():
    text = 'program p() -> str:\n    "x"\n    select s(by="unconditional") from ["a"]\n    return s'
    with pytest.raises(NoBaseline):
        weft.compile(text, "openai:http://localhost:1/v1#m")


@pytest.mark.parametrize("model", ["openai:", "openai:localhost", "openai:http://u:p@h/v1#m"])
def test_a_malformed_address_is_refused(model):
    with pytest.raises(WeftError, match="no remote model") as error:
        weft.compile('program p() -> str:\n    "x"\n    gen a\n    return a', model)
    assert "u:p" not in str(error.value)
