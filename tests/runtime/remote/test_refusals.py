"""What an endpoint may not be able to do, or the API cannot say: found out, or refused at once."""

from __future__ import annotations

import pytest
import weft
from weft.compiler.remote_model import check_options
from weft.ir.diagnostics import WeftError
from weft.options import BadOption, Options
from weft.passes.program.endpoints.calls import NoBaseline, NotOverChat
from weft.runtime.remote.errors import Lacks

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


@pytest.mark.parametrize("model", [
    "openai:", "openai:localhost", "openai:http://u:p@h/v1#m", "openai:http://[::1/v1#m",
    "openai:http://a..b/v1#m", "openai:http://[zz]/v1#m",
])  # fmt: skip
def test_a_malformed_address_is_refused(model):
    with pytest.raises(WeftError, match="no remote model") as error:
        weft.compile('program p() -> str:\n    "x"\n    gen a\n    return a', model)
    assert "u:p" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [{"weights": "bf16"}, {"kv": "bf16"}, {"target": "cuda"}, {"tp": 2}, {"gpu_memory": 1 << 30},
     {"kv_memory": 1 << 30}, {"attention": "sparse(k=64)"}, {"max_loss": 0.1},
     {"weight_copies": False}],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_options_of_an_engine_are_refused_for_an_endpoint(fake, options):
    (name,) = options
    with pytest.raises(BadOption, match=f"{name}: openai:.* as its server was started"):
        weft.compile(OPENED, fake.model, **options)


def test_options_of_an_endpoint_are_refused_for_a_model_of_this_process():
    with pytest.raises(BadOption, match="remote_retries: the model runs in this process"):
        weft.compile(OPENED, "tiny-dense", remote_retries=2)


def test_a_key_in_the_environment_is_no_option_of_an_endpoint():
    check_options(Options.from_env({"OPENAI_API_KEY": "sk-1"}), None)


def test_what_the_checker_finds_suspicious_is_told_for_an_endpoint_too(fake):
    with pytest.warns(UserWarning, match="the parameter `unused` is never used"):
        weft.compile(OPENED.replace("p()", "p(unused: str)"), fake.model)


def test_a_policy_of_attention_in_a_program_is_warned_of(fake):
    text = OPENED.replace("assistant:", "with attention sparse(k=64):\n        assistant:")
    text = text.replace('        "Grade: "\n        gen', '            "Grade: "\n            gen')
    with pytest.warns(UserWarning, match="with attention sparse.k=64.: an endpoint"):
        weft.compile(text, fake.model)
