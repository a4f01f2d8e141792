"""Endpoints that fail: what passes is tried again, the rest is told with what to do."""

from __future__ import annotations

import pickle
import threading
import time

import pytest
import weft
from weft.ir.diagnostics import WeftError
from weft.options import BadOption, Options
from weft.runtime.programs.events import TextPiece
from weft.runtime.remote.errors import (
    BadRemoteModel,
    ContextOverflow,
    CutStream,
    Malformed,
    MissingPackage,
    MissingRoute,
    Refused,
    ServerFailed,
    Unauthorized,
    UnknownRemoteModel,
    UnnamedRemoteModel,
    Unreachable,
    UnsendableKey,
)

TEXT = """
program p() -> str:
    user "Go"
    assistant gen word(max_tokens=4)
    return word
"""
KEY = "sk-very-secret"


def compiled(fake, text=TEXT, **options):
    return weft.compile(text, fake.model, **{"remote_retries": 3, **options})


def test_a_limit_of_the_rate_is_waited_out(fake):
    executable = compiled(fake.answers(fake.failed(429, retry_after="0.2"), fake.said("ok")))
    start = time.monotonic()
    assert executable.run().value == "ok"
    assert time.monotonic() - start >= 0.2 and executable.engine.retries == 1


def test_too_many_tokens_a_minute_are_no_long_prompt(fake):
    limited = fake.failed(429, "Too many tokens, please wait before trying again.")
    assert compiled(fake.answers(limited, fake.said("ok"))).run().value == "ok"


@pytest.mark.parametrize("status", [408, 500, 502, 503, 529])
def test_what_passes_is_tried_again(fake, status):
    failed = fake.failed(status)
    assert compiled(fake.answers(failed, failed, fake.said("ok"))).run().value == "ok"
    assert len(fake.asked) == 3


def test_a_storm_of_errors_ends_with_the_last_one(fake):
    with pytest.raises(ServerFailed, match=r"failed with 500: boom \(4 attempts\)") as error:
        compiled(fake.answers(fake.failed(500, "boom"))).run()
    assert len(fake.asked) == 4 and "<program>:4:" in str(error.value)


def test_a_spent_quota_is_not_tried_again(fake):
    reply = fake.failed(429, "no credit")
    reply.body["error"]["code"] = "insufficient_quota"
    with pytest.raises(Refused, match="no credit"):
        compiled(fake.answers(reply)).run()
    assert len(fake.asked) == 1


def test_a_slow_answer_is_a_failure(fake):
    slow = fake.said("late")
    slow.wait = 600
    executable = compiled(
        fake.answers(slow, fake.said("ok")), remote_timeout=0.2, remote_retries=50
    )
    assert executable.run().value == "ok"
    with pytest.raises(Unreachable, match="0.2 s"):
        compiled(fake.answers(slow), remote_timeout=0.2, remote_retries=0).run()


def test_an_address_that_cannot_be_one_is_named():
    with pytest.raises(BadRemoteModel, match="non-printable"):
        weft.compile(TEXT, "openai:http://127.0.0.1:9/v1\n#m").run()


def test_nobody_there():
    executable = weft.compile(TEXT, "openai:http://127.0.0.1:9/v1#m", remote_retries=1)
    with pytest.raises(Unreachable, match=r"refused.*\(2 attempts\)") as error:
        executable.run()
    assert "running" in error.value.hint_text


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_is_told_and_never_shown(fake, status):
    fake.answers(fake.failed(status, f"Incorrect API key provided: {KEY}"))
    with pytest.raises(Unauthorized, match="OPENAI_API_KEY") as error:
        compiled(fake, remote_key=KEY).run()
    assert fake.keys == {f"Bearer {KEY}"} and KEY not in str(error.value)


def test_a_key_that_no_header_may_have_is_told_and_never_shown(fake):
    compiled(fake.answers(fake.said("ok")), remote_key=f"{KEY}\n").run()
    assert fake.keys == {f"Bearer {KEY}"}, "a file's last line end is no part of it"
    for key in (f"{KEY}\x00", f"{KEY}\n{KEY}", f"{KEY}é"):
        with pytest.raises(UnsendableKey, match="OPENAI_API_KEY") as error:
            compiled(fake, remote_key=key).run()
        assert KEY not in str(error.value)


def test_the_key_comes_from_the_environment_and_shows_nowhere():
    options = Options.from_env({"OPENAI_API_KEY": KEY})
    assert options.remote.key == KEY and KEY not in repr(options)


@pytest.mark.parametrize(
    ("status", "said"),
    [(404, "The model `m` does not exist."), (400, "The model `m` does not exist."),
     (400, "Server is pinned to 'large'; requested 'm'.")],
)  # fmt: skip
def test_an_unknown_model_is_told_with_those_that_there_are(fake, status, said):
    fake.models = [{"id": "large"}, {"id": "small"}]
    fake.answers(fake.failed(status, said))
    with pytest.raises(UnknownRemoteModel, match="'m'(.|\n)*'large', 'small'"):
        compiled(fake).run()


def test_without_a_name_the_only_model_is_taken(fake):
    model = fake.answers(fake.said("ok")).model.removesuffix("m").removesuffix("#")
    assert weft.compile(TEXT, model).run().value == "ok" and fake.asked[0][1]["model"] == "m"
    for models, says in (([{"id": "large"}, {"id": "small"}], "'large', 'small'"), ([], "none")):
        fake.models = models
        with pytest.raises(UnnamedRemoteModel, match=f"it lists {says}") as error:
            weft.compile(TEXT, model).run()
        assert f"{model}#NAME" in error.value.render()


def test_an_adapter_is_a_model_that_is_served(fake):
    text = TEXT.replace("    assistant gen", '    with adapter "poet":\n        assistant gen')
    with pytest.raises(UnknownRemoteModel, match="adapter 'poet'") as error:
        compiled(fake.answers(fake.said("ok")), text).run()
    assert "<program>:5:" in str(error.value) and not fake.asked
    fake.models = [{"id": "m"}, {"id": "poet"}]
    assert compiled(fake, text).run().value == "ok" and fake.asked[0][1]["model"] == "poet"
    fake.models = []  # no list says nothing: the endpoint is asked
    assert compiled(fake, text).run().value == "ok" and fake.asked[1][1]["model"] == "poet"


def test_a_client_is_another_endpoint(fake):
    text = TEXT.replace(
        "    assistant gen", f'    with client "{fake.model}2":\n        assistant gen'
    )
    executable = weft.compile(text, "openai:http://127.0.0.1:9/v1#m", remote_retries=0)
    fake.answers(fake.said("ok"))
    assert executable.run().value == "ok" and fake.asked[0][1]["model"] == "m2"


@pytest.mark.parametrize(
    "status, message",
    [
        (400, "This model's maximum context length is 10 tokens, you asked for 20"),
        (400, "Requested tokens (20) exceed context window of 10"),
        (500, "the request exceeds the available context size"),
    ],
)
def test_a_prompt_that_does_not_fit(fake, status, message):
    with pytest.raises(ContextOverflow, match="gen 'word'") as error:
        compiled(fake.answers(fake.failed(status, message))).run()
    assert "<program>:4:" in str(error.value) and len(fake.asked) == 1


@pytest.mark.parametrize("body", [{"detail": [{"msg": "Extra inputs", "loc": ["top_k"]}]},
                                  {"message": "top_k: Extra inputs"}])  # fmt: skip
def test_a_parameter_that_is_not_known(fake, body):
    reply = fake.failed(422)
    reply.body = body
    with pytest.raises(Refused, match="422.*Extra inputs") as error:
        compiled(fake.answers(reply)).run()
    assert "dialect" in error.value.hint_text


def test_a_new_name_of_the_budget_is_learnt(fake):
    message = "'max_tokens' is not supported, use 'max_completion_tokens' instead."
    executable = compiled(fake.answers(fake.failed(400, message), fake.said("ok")))
    assert executable.run().value == "ok" and executable.run().value == "ok"
    assert "max_completion_tokens" in fake.asked[1][1] and "max_tokens" not in fake.asked[2][1]


def test_no_such_address(fake):
    fake.missing |= {"/chat/completions", "/completions"}
    with pytest.raises(MissingRoute, match="/chat/completions and no /completions"):
        compiled(fake).run()


@pytest.mark.parametrize(
    "body", [b"<html>hello</html>", b"[1]", {"choices": []}, {"choices": "x"}, {"choices": [None]},
             {"choices": 3}, {"ok": True}]
)  # fmt: skip
def test_an_answer_of_another_form(fake, body):
    reply = fake.said("")
    reply.body = body
    with pytest.raises(Malformed, match="another form"):
        compiled(fake.answers(reply)).run()
    with pytest.raises(Malformed, match="another form"):
        list(compiled(fake).stream())
    assert len(fake.asked) == 2, "it would be the same again"
    if isinstance(body, dict):
        chunks = fake.streamed([])
        chunks.chunks = [body, b"data: [DONE]\n\n"]
        with pytest.raises(Malformed, match="another form"):
            list(compiled(fake.answers(chunks)).stream())


def test_a_body_that_cannot_be_unpacked_is_asked_for_again(fake):
    packed = fake.said("half")
    packed.headers = {"Content-Encoding": "gzip"}
    assert compiled(fake.answers(packed, fake.said("whole"))).run().value == "whole"


def test_a_server_that_does_not_stream_is_heard_at_once(fake):
    executable = compiled(fake.answers(fake.said("ok then")))
    events = list(executable.stream())
    assert fake.asked[0][1]["stream"] is True and len(fake.asked) == 1
    assert [event.text for event in events if isinstance(event, TextPiece)] == ["ok then"]
    assert events[-1].result.value == "ok then"


@pytest.mark.parametrize("finish", ["content_filter", "tool_calls"])
def test_an_answer_that_is_none(fake, finish):
    with pytest.raises(Malformed, match=finish):
        compiled(fake.answers(fake.said("", finish))).run()


def test_a_body_that_breaks_off_is_asked_again(fake):
    broken = fake.said("half")
    broken.cut = True
    assert compiled(fake.answers(broken, fake.said("whole"))).run().value == "whole"
    with pytest.raises(CutStream):
        compiled(fake.answers(broken)).run()


def pieces(executable):
    return [event.text for event in executable.stream() if isinstance(event, TextPiece)]


def test_a_stream_that_breaks_off_goes_on_where_it_was(fake):
    fake.answers(fake.streamed(["one ", "two "], finish=None), fake.streamed(["one two ", "3"]))
    assert "".join(pieces(compiled(fake))) == "one two 3"


@pytest.mark.parametrize("said", [["one ", "two "], []], ids=["later", "at once"])
@pytest.mark.parametrize("rest", [b"dat", b"data", b'data: {"choi', b'data: {"choices": [{"te'])
def test_a_stream_that_breaks_off_within_a_line_goes_on_too(fake, said, rest):
    broken = fake.streamed(said, finish=None)
    broken.chunks += [rest]
    executable = compiled(fake.answers(broken, fake.streamed(["one two ", "3"])))
    assert "".join(pieces(executable)) == "one two 3" and len(fake.asked) == 2


def test_a_line_that_is_no_json_is_told_at_once(fake):
    broken = fake.streamed(["one ", "", "two "])
    broken.chunks[1] = b"data: {one}\n\n"
    with pytest.raises(Malformed, match="no JSON object"):
        pieces(compiled(fake.answers(broken)))
    assert len(fake.asked) == 1


def test_a_stream_that_says_something_else_again_is_not_patched(fake):
    fake.answers(fake.streamed(["one "], finish=None), fake.streamed(["two"]))
    with pytest.raises(CutStream, match="something else"):
        pieces(compiled(fake))


def test_a_stream_that_always_breaks_off(fake):
    with pytest.raises(CutStream, match="no end"):
        pieces(compiled(fake.answers(fake.streamed(["one "], finish=None))))


def test_an_error_inside_a_stream(fake):
    reply = fake.streamed(["one "], finish=None)
    reply.chunks.append({"error": "out of memory"})
    with pytest.raises(CutStream, match="out of memory"):
        pieces(compiled(fake.answers(reply)))


def test_closing_a_run_waits_for_nothing(fake):
    slow = fake.said("late")
    slow.wait = 600
    steps = compiled(fake.answers(slow)).session().steps(iter([(0, {})]))
    while not fake.asked:
        assert next(steps) == []
    steps.close()
    assert fake.running == 1


@pytest.mark.parametrize("when", ["asked", "answering"])
def test_a_cancelled_call_gives_its_place_to_another(fake, when):
    """Its connection is shut, which the endpoint can see, too."""
    asked, over, found = threading.Event(), threading.Event(), []

    def hangs(body):
        asked.set()
        over.wait()
        return fake.said("late")

    def chunks():
        yield {"choices": [{"index": 0, "delta": {"content": "a"}}]}
        asked.set()
        over.wait()

    streamed = fake.streamed([])
    streamed.chunks = chunks()
    first, hear = (hangs, None) if when == "asked" else (streamed, [].append)
    endless = {"remote_timeout": 10_000, "remote_concurrency": 1}
    executable = compiled(fake.answers(first, fake.said("ok")), TEXT, **endless)
    steps = executable.session(hear).steps(iter([(0, {})]))
    while not asked.is_set():
        assert next(steps) == []
    steps.close()
    again = threading.Thread(target=lambda: found.append(executable.run().value), daemon=True)
    again.start()
    again.join(60)
    over.set()
    assert found == ["ok"] and executable.engine.retries == 0


def test_one_row_may_fail_and_others_go_on(fake):
    text = 'program p(n: int) -> str:\n    "{n}"\n    gen word(max_tokens=2)\n    return word'

    def reply(body):
        return fake.failed(400, "bad") if body["prompt"] == "1" else fake.said("ok")

    rows = compiled(fake.answers(reply), text).run_rows([{"n": n} for n in range(3)],
                                                         keep_going=True)  # fmt: skip
    assert rows.values == ["ok", None, "ok"] and "bad" in rows.errors[1]


def test_errors_can_be_sent_to_other_processes(fake):
    with pytest.raises(WeftError) as error:
        compiled(fake.answers(fake.failed(400, "bad"))).run()
    again = pickle.loads(pickle.dumps(error.value))
    assert str(again) == str(error.value) and type(again) is type(error.value)


def test_missing_packages_are_named(monkeypatch):
    from weft.runtime.remote import service

    monkeypatch.setattr(service, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match="pip install 'httpx.*extra `remote`"):
        weft.compile(TEXT, "openai:http://127.0.0.1:9/v1#m")


@pytest.mark.parametrize(
    "options", [{"remote_api": "soap"}, {"remote_concurrency": 0}, {"remote_retries": -1},
                {"remote_dialect": "x"}, {"remote_nothing": 1}]
)  # fmt: skip
def test_wrong_options_are_refused(options):
    with pytest.raises(BadOption):
        Options().changed(**options)


def test_an_answer_with_half_a_character_or_odd_counts_is_read(fake, tmp_path):
    """JSON may escape half of a pair, which neither a prompt nor a journal can hold."""
    odd = fake.said("a\ud800b\ud83d\ude00", finish=["odd"])
    odd.body["usage"] = {"prompt_tokens": "many", "completion_tokens": [3]}
    text = TEXT.replace("return word", 'user "{word}"\n    assistant gen more(max_tokens=4)')
    executable = compiled(fake.answers(odd), text + "    return word + more\n")
    out = tmp_path / "out.jsonl"
    (value,) = executable.run_rows([{}], out).values
    assert value == "a\ufffdb\U0001f600" * 2 and value in out.read_text(encoding="utf-8")
    assert fake.asked[-1][1]["messages"][-1]["content"] == "a\ufffdb\U0001f600"


def test_a_count_that_a_later_piece_leaves_out_is_kept(fake):
    reply = fake.streamed(["a", "b"])
    reply.chunks[0]["usage"] = {"prompt_tokens": 9, "completion_tokens": 1}
    reply.chunks[-1]["usage"] = {"prompt_tokens": None, "completion_tokens": 5}
    *_, finished = compiled(fake.answers(reply), TEXT).stream()
    stats = finished.result.stats
    assert (stats.prompt_tokens, stats.generated_tokens) == (9, 5)
