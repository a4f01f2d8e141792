"""Select, score and log-probabilities on a scripted endpoint."""

from __future__ import annotations

import pytest
import weft
from weft.runtime.remote.errors import Lacks, Malformed

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


def test_pieces_of_options_that_are_whole_tokens_say_nothing(fake):
    fake.answers(fake.said("Bee", logprobs=top(A=-2.5, B=-4.0, Bee=-0.1)))
    result = weft.compile(PICK.format(by=""), fake.model).run()
    assert result.value == "Bee" and result.values["s"].probs["A"] == pytest.approx(0.083, abs=1e-3)


def test_an_option_that_a_list_has_twice_is_one_option(fake):
    fake.answers(fake.said("B", logprobs=top(B=-0.7, A=-1.4, C=-3.0)))
    text = PICK.format(by='(by="greedy")').replace('["A", "Bee"]', '["A", "Bee", "{again}"]')
    text = text.replace('    user "Go"', '    let again = "A"\n    user "Go"')
    result = weft.compile(text, fake.model).run()
    assert result.value == "Bee" and sum(result.values["s"].probs.values()) == pytest.approx(1.0)


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
    asked_together = ("<program>:4:", "<program>:5:")  # the score and the select: who fails first
    assert any(place in str(error.value) for place in asked_together)


def test_a_first_token_without_logprob_does_not_say_that_nothing_is_echoed(fake):
    first = 'program p() -> float:\n    return score("so")\n'
    executable = weft.compile(first, fake.answers(echo(fake)).model)
    with pytest.raises(Lacks, match="one of its tokens"):
        executable.run()
    assert not next(iter(executable.engine._known.values())).lacks_echo


@pytest.mark.parametrize("given", ["content", "generated"])
def test_an_endpoint_that_echoes_no_logprobs_is_asked_for_them_once(fake, given):
    twice = 'program p() -> str:\n    "Is it "\n' + "".join(
        f'    select {name}(by="greedy") from ["A", "Bee"]\n' for name in ("one", "two")
    )

    def reply(body):
        if not body.get("echo"):
            return fake.said("A", logprobs={"top_logprobs": [{"A": -0.1, "B": -3.0}]})
        found = echo(fake)(body)
        logprobs = found.body["choices"][0]["logprobs"]
        values = logprobs["token_logprobs"]
        values[:-1] = [None] * (len(values) - 1)
        if given == "content":
            logprobs.clear()
            logprobs["content"] = []
        return found

    weft.compile(twice + '    return "{one}{two}"\n', fake.answers(reply).model).run()
    assert sum(bool(body.get("echo")) for _, body in fake.asked) == 1


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


def test_a_number_that_is_none_is_no_logprob(fake):
    gen = "program p() -> list[float]:\n    assistant gen w(logprobs=true)\n    return w.logprobs\n"
    nan = {"content": [{"token": "abc", "logprob": float("nan")}]}
    prompt = {"tokens": ["Is it", " so"], "token_logprobs": [None, "NaN"]}
    for text, answer in (
        (gen, fake.said("abc", logprobs=nan)),
        (PICK.format(by='(by="greedy")'), fake.said("B", logprobs=top(A=-1.0, B=float("nan")))),
        ('program p() -> float:\n    "Is it"\n    return score(" so")\n',
         fake.said("Is it so", logprobs=prompt)),
    ):  # fmt: skip
        with pytest.raises(Malformed, match="NaN is no log-probability"):
            weft.compile(text, fake.answers(answer).model).run()


def test_a_select_reads_odd_counts_and_refuses_odd_choices(fake):
    reply = fake.said("B", logprobs=top(A=-1.0, B=-0.5))
    reply.body["usage"]["prompt_tokens"] = "many"
    text = PICK.format(by='(by="greedy")')
    assert weft.compile(text, fake.answers(reply).model).run().value == "Bee"
    for choices in ([None], 3, {"0": 1}):
        reply.body["choices"] = choices
        with pytest.raises(Malformed, match="another form"):
            weft.compile(text, fake.model).run()


def test_options_are_scored_side_by_side(fake):
    options = ", ".join(f'"{word}"' for word in ("one", "two", "three", "four"))
    text = f'program p() -> str:\n    "Go"\n    select x from [{options}]\n    return x'

    def reply(body):
        found = echo(fake)(body)
        found.wait, fake.together = 0.1, 3  # the first is asked alone
        return found

    weft.compile(text, fake.answers(reply).model).run()
    assert len(fake.asked) == 4 and fake.most == 3


def test_a_select_finds_out_that_there_is_no_chat(fake):
    fake.missing.add("/chat/completions")
    fake.answers(fake.said("A", logprobs={"top_logprobs": [{"A": -0.1, "B": -3.0}]}))
    result = weft.compile(PICK.format(by='(by="greedy")'), fake.model).run()
    assert result.value == "A" and fake.asked[0][0] == "/completions"
