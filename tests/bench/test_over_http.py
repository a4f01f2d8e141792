"""The HTTP side of the programs' bench: real sockets, the same answers, errors, and no hanging."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from threading import Thread
from types import SimpleNamespace
from typing import Any, cast

import pytest
from weft.bench import programs
from weft.bench.contest.asked import PREFILL, Asked
from weft.bench.contest.contest import Run, Way
from weft.bench.contest.driver import Answer, Program
from weft.bench.contest.grammars import Grammars
from weft.bench.contest.server import Server
from weft.bench.cpu import record
from weft.bench.over_http import command, race
from weft.bench.over_http.channel import Channel, Ended, Frames, frame
from weft.bench.over_http.command import keep
from weft.bench.over_http.connections import HttpError, HttpServer, Post, post_of
from weft.bench.over_http.core import EngineFailed, Lost, serve
from weft.bench.over_http.deployment import Deployment
from weft.bench.over_http.front import Front, listen_anywhere, run
from weft.bench.over_http.jobs import BEGUN, Done
from weft.bench.over_http.overhead import Parrot
from weft.frontend.checkpoints.checkpoint import open_checkpoint
from weft.frontend.lowering.lower import lower
from weft.frontend.semantics.checker import check
from weft.frontend.semantics.constraints import constraint_of
from weft.frontend.text.parser import parse_text
from weft.runtime.engine import Engine
from weft.runtime.simulator import ToyChat, ToyExecutor, ToyTokenizer

TOKENIZER = ToyTokenizer()  # of bytes only: whatever meets, text is tokenized as it was

ALL = """
tool half(number: int) -> int

program p(topic: str) -> str:
    user "About {topic}: "
    fork side in ["left", "right"] as sides:
        user "{side}"
        fork 2 as drafts:
            assistant gen draft(max_tokens=5, temperature=0.8, seed=3, stop=["q", "Z"])
            yield draft
        yield drafts
    select first from ["alpha", "alps", "b"]
    select other(by="unconditional") from ["xx", "xy", "z"]
    let points = score("abc")
    assistant gen number: int(-5..120)
    assistant gen word(max_tokens=3, logprobs=true)
    let found = half(len(topic))
    match found:
        case error e:
            return "{e.kind} {sides} {first} {other} {number} {word}"
        case value v:
            return "{v} {sides} {first} {other} {number} {word} {points < 0.0}"
"""
ROWS = [{"topic": "sun"}, {"topic": "sunday"}, {"topic": "a"}, {"topic": "sun"}]


def half(number: int) -> int:
    if number % 2:
        raise ValueError("odd")
    return number // 2


class AsciiExecutor(ToyExecutor):
    """It says what is text alone: clients keep text, and would lose the rest."""

    def all_logits(self, step):
        logits = super().all_logits(step)
        logits[..., 5 + 128 :] = -1e9
        logits[..., [0, 2, 3, 4]] = -1e9
        return logits


def made(text):
    """Return a server of its own engine, and a program."""
    file = parse_text(text)
    check(file)
    executor = AsciiExecutor(TOKENIZER.size, context_length=2048, num_pages=600)
    server = Server(Engine(executor), TOKENIZER, Grammars(TOKENIZER, executor.vocab_size))
    return server, Program(lower(file), "p", ToyChat(), constraint_of, {"half": half}, seed=11)


@contextmanager
def front():
    """A front in a thread: yields its port, and the engine's end of its channel."""
    ours, theirs = socket.socketpair()
    listening = listen_anywhere()
    port = listening.getsockname()[1]
    thread = Thread(target=run, args=(Front(TOKENIZER, theirs), listening))
    thread.start()
    channel = Channel(ours, "the front")
    try:
        yield port, channel
    finally:
        channel.close()
        thread.join()
    with pytest.raises(ConnectionRefusedError):  # the port is free again
        socket.create_connection(("127.0.0.1", port))


def over_http(server, walk):
    """Serve, with clients in a thread that walk a program; return what they bring back."""
    ours, theirs = socket.socketpair()
    clients, engine = Channel(ours, "the clients"), Channel(theirs, "the engine")
    failed = []
    with front() as (port, channel):

        def run_clients():
            over = HttpServer(port)
            try:
                over.engine.warm(3)
                engine.send(BEGUN)
                engine.send(Done(0.0, walk(over)))
            except BaseException as error:
                failed.append(error)
            finally:
                over.engine.close()
                engine.close()

        thread = Thread(target=run_clients)
        thread.start()
        try:
            return serve(server, channel, clients, Lost([])).answers
        except Ended:
            raise failed[0] from None
        finally:
            channel.close()  # whatever has failed, the front ends, and with it the clients
            thread.join()
            clients.close()


def test_clients_over_http_say_what_those_in_the_engines_process_say():
    (server, program), (plain, same_program) = made(ALL), made(ALL)
    rows = dict(enumerate(ROWS))
    found = over_http(server, lambda over: program.run_rows(over, rows))
    assert found == same_program.run_rows(plain, rows)
    assert all(answer.error is None for answer in found)
    assert found[0].values["word"].logprobs and len(found[1].value) > 20
    server.engine.check()
    assert server.engine.kv.live == 0


def test_what_a_server_cannot_answer_is_its_requests_error_alone():
    text = 'program p(topic: str) -> str:\n    "{topic}"\n    gen word(max_tokens=2)\n'
    server, program = made(text + "    return word\n")
    rows = {0: {"topic": "sun"}, 1: {"topic": "long" * 1000}}

    def walk(over):
        odd = (b"{}", b"no JSON", b"[1]", b'{"parts": 3, "name": "", "row": 0}')
        posts = [*(Post("generate", body) for body in odd), Post("nothing", b"{}")]
        for post in posts:
            over.engine.submit(post)
        while over.engine:
            over.engine.step()
        return [*program.run_rows(over, rows), *posts]

    fine, broken, *refused = over_http(server, walk)
    assert fine.error is None and isinstance(broken.error, HttpError)
    assert "context" in str(broken.error)
    assert [post.status for post in refused] == [400, 400, 400, 400, 404]
    assert all(json.loads(post.answer)["error"] for post in refused)


def test_who_waits_for_one_that_is_gone_is_told_so():
    ours, theirs = socket.socketpair()
    with front() as (port, channel):
        server, asked = HttpServer(port), post_of(Asked(PREFILL, ("a",), "", 0))
        server.engine.submit(asked)
        channel.wait()  # the request is on its way, and nobody answers
        with socket.socket(fileno=os.dup(channel.fileno())) as same:
            same.shutdown(socket.SHUT_RDWR)
        while server.engine:
            server.engine.step()
        assert asked.status == 500 and b"the engine has ended" in asked.answer
        with pytest.raises(Ended, match="the front has ended"):
            serve(Parrot(), channel, Channel(ours, "the client"))
    with pytest.raises(Ended, match="the HTTP front has closed a connection"):
        server.engine.submit(asked)
        server.engine.step()
    server.engine.close()
    theirs.close()
    idle, other = socket.socketpair()
    with pytest.raises(Ended, match="the client has ended"):
        serve(Parrot(), Channel(idle, "the front"), Channel(ours, "the client"))
    for each in (ours, idle, other):
        each.close()


def test_who_asks_when_the_engine_has_ended_is_answered():
    ours, theirs = socket.socketpair()
    theirs.close()

    async def late() -> bool:
        front = Front(open_checkpoint("tiny-dense").tokenizer, ours)
        await front.listen()
        answers = [front._ask(Asked(PREFILL, (), "", row), ()) for row in range(2)]
        return all(answer.done() and "ended" in answer.result() for answer in answers)

    assert asyncio.run(late())


def test_a_process_that_does_not_start_is_told(monkeypatch):
    start = subprocess.Popen
    gone = lambda command, **kept: start([sys.executable, "-c", ""], **kept)  # noqa: E731
    monkeypatch.setattr(subprocess, "Popen", gone)
    with pytest.raises(Ended, match="the HTTP front has ended"):
        Deployment("tiny-dense")
    monkeypatch.setattr(command, "on_cpu", lambda options: SimpleNamespace(
        bench=SimpleNamespace(model="tiny-dense"), few_cores=False, prefix=""
    ))  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["programs", "--http", "--only", "chat"])
    with pytest.raises(SystemExit, match="the HTTP front has ended: is uvicorn there?"):
        programs.main()


def test_messages_come_whole_however_their_bytes_do():
    messages = [(1, "a" * 300), [2.5], {"three": b"\n"}]
    data, frames, found = b"".join(map(frame, messages)), Frames(), []
    for at in range(0, len(data), 7):
        found += frames.feed(data[at : at + 7])
    assert found == messages


def test_a_question_is_the_same_after_json():
    asked = Asked("generate", (1, "text "), "gen", 3, " ", sampling={"max_tokens": 4},
                  constraint=("regex", "a+"), stops=("q",))  # fmt: skip
    fields = json.loads(json.dumps({**vars(asked)}))
    assert Asked.of(fields.pop("kind"), fields) == asked


def test_seconds_that_others_waited_count_where_the_engine_had_nothing_to_do(monkeypatch):
    """Two idle periods of 10 s: 4 s waited for a core in one; in the other more than can be."""
    moments = iter([(0, 0, 0, 0), (0, 0, 0, 0), (10, 1, 3, 4), (20, 1, 3, 4), (30, 1, 10, 99)])
    monkeypatch.setattr(Lost, "_now", lambda self: next(moments))
    lost = Lost([])
    lost._clock = SimpleNamespace(lost=lambda: 2.0)
    for _ in range(2):
        with lost:
            pass
    assert lost.seconds == 2.0 + 4 + (10 - 7)


def test_means_over_http_are_of_all_recorded_programs_with_several_calls(tmp_path):
    figures = lambda value: dict.fromkeys(  # noqa: E731
        ("http_speedup", "http_wall_speedup", "http_over_requests"), value
    )
    path = tmp_path / "programs.json"
    setting: Any = SimpleNamespace(path=path, record=record, prefix="gpu_")
    for name, value in {"rag": 1.0, "chat": 2.0, "mmlu": 0.5, "rag ": 8.0}.items():
        keep(setting, name.strip(), figures(value), {"gpu_http_us_a_request_1": value})
    found = json.loads(path.read_text())
    assert found["figures"]["gpu_http_speedup_geomean"] == pytest.approx(4.0)
    assert found["figures"]["gpu_http_speedup_min"] == 0.5
    assert found["figures"]["gpu_http_programs"] == 3
    assert found["figures"]["gpu_http_us_a_request_1"] == 8.0
    assert {"http", "http chat", "http rag", "http mmlu"} == found["sections"].keys()


def test_the_run_that_shows_the_better_order_is_the_first_round(monkeypatch):
    engine, asked = SimpleNamespace(steps=1, computed_tokens=1), []
    run = lambda seconds: Run(seconds, [Answer(1, {})], engine)  # noqa: E731

    def over_http(contest, way, deployment):
        asked.append(way.longest_prefix)
        return run(float(len(asked)))

    monkeypatch.setattr(race, "over_http", over_http)
    contest: Any = SimpleNamespace(
        rows=[{}], weft=lambda way: run(1.0), requests=lambda way: run(2.0)
    )
    found = race.race(contest, Way(), cast(Any, None), 3, 0.0, exact=False)
    assert asked == [False, True, False, False] and not found["longest_prefix"]
    assert found["seconds"]["http"] | {"low": 0, "high": 0} == {
        "median": 3.0, "low": 0, "high": 0, "rounds": 3,
    }  # fmt: skip
    assert found["http_speedup"] == 3.0 and found["work"]["http"]["steps"] == 1


@pytest.mark.slow
def test_a_program_is_raced_against_processes_of_the_shipped_model():
    from weft.bench.contest.cases import CASES
    from weft.bench.contest.contest import Bench, Contest
    from weft.bench.over_http.overhead import measure

    with Deployment("tiny-dense", few_cores=True) as deployment:
        assert min(measure(deployment, "tiny-dense", requests=64).values()) >= 0
        contest = Contest(Bench(), CASES["pairwise"], CASES["pairwise"].rows()[:4])
        found = race.race(contest, Way(), deployment, 1, 0.0, exact=True)
    assert found["equal_rows"] == 4 and found["http_speedup"] > 0
    assert found["work"]["http"]["steps"] > 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", deployment.port))


def test_an_engine_that_fails_tells_all_who_ask_and_another_one_is_served():
    """Who waits for answers that nobody gives any more would wait for ever."""
    text = 'program p(topic: str) -> str:\n    "{topic}"\n    gen word(max_tokens=4)\n'
    (broken, program), (fine, _) = (made(text + "    return word\n") for _ in range(2))
    rows, said = dict(enumerate(ROWS)), []
    ours, theirs = socket.socketpair()
    clients, engine = Channel(ours, "the clients"), Channel(theirs, "the engine")
    step = broken.engine.step

    def steps_twice():
        if broken.engine.steps == 2:
            raise MemoryError("no room")
        return step()

    broken.engine.step = steps_twice

    def walk_twice(port):
        over = HttpServer(port)
        try:
            for _ in range(2):
                said.append(program.run_rows(over, rows, 2))
                engine.send(Done(0.0, said[-1]))
                engine.wait()
        except Ended:
            pass  # it is over
        finally:
            over.engine.close()
            engine.close()

    with front() as (port, channel):
        thread = Thread(target=walk_twice, args=(port,))
        thread.start()
        try:
            with pytest.raises(EngineFailed, match="MemoryError: no room"):
                serve(broken, channel, clients)
            clients.send("again")
            found = serve(fine, channel, clients).answers
        finally:
            clients.close()
            channel.close()
            thread.join()
    assert len(found) == len(rows) and all(answer.error is None for answer in found)
    assert [str(answer.error).count("no room") for answer in said[0]] == [1] * len(rows)


@pytest.mark.parametrize("starts", [True, False])
def test_programs_go_on_when_one_fails_in_new_processes_if_these_have_ended(
    monkeypatch, capsys, starts
):
    class Processes:
        started = 0

        def start(self) -> None:
            self.started += 1
            if not starts:
                raise Ended("no process")

    processes, fails = Processes(), {"chat": EngineFailed("no room"), "rag": Ended("it has ended")}

    def raced(case, *given):
        if case.name in fails:
            raise fails[case.name]
        return dict.fromkeys(("http_speedup", "http_wall_speedup", "http_over_requests"), 2.0)

    setting = SimpleNamespace(
        bench=SimpleNamespace(model=""), rows_of=lambda case: [], way=None, prefix="",
        few_cores=False, exact=True,
    )  # fmt: skip
    for name, what in {
        "on_cpu": lambda options: setting, "Deployment": lambda *given: nullcontext(processes),
        "measure": lambda *given: {}, "race": raced, "line": lambda name, found: f"{name} raced",
        "Contest": lambda bench, case, rows: case,
    }.items():  # fmt: skip
        monkeypatch.setattr(command, name, what)
    asked = SimpleNamespace(target="cpu", quick=True, rounds=1, only=["chat", "rag", "mmlu"],
                            idle=0.0, record=False, json=True)  # fmt: skip
    assert command.run(asked) == 1 and processes.started == 1
    said = capsys.readouterr().out
    assert "chat               failed: EngineFailed: no room" in said
    assert ("mmlu raced" in said) == starts
    failed = json.loads(said.splitlines()[-1])["failed"]
    assert failed.keys() == (fails.keys() if starts else {*fails, "processes"})
