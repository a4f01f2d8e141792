"""The same weights behind real servers: a remote run says what the run here says.

`transformers serve` speaks chat and plain completions; llama.cpp's Python server also scores,
holds gens to types and gives log-probabilities. Both compute in float32, greedily.
"""

from __future__ import annotations

import importlib.util
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import weft
from weft.frontend.checkpoints.checkpoint import ZOO
from weft.runtime.programs.events import TextPiece
from weft.runtime.remote.errors import Lacks

FOLDER = ZOO / "tiny-dense"
TEMPLATE: dict[str, Any] = {"remote_template": "tiny-dense"}

TALK = """
program talk(topic: str) -> list[str]:
    system "You are a helpful assistant."
    user "Tell me about {topic}."
    assistant gen first(max_tokens=6)
    fork colour in ["red", "blue"] as more:
        user "And {colour}?"
        assistant gen word(max_tokens=4, stop=["."])
        yield word
    return [first] + more
"""

EVERYTHING = """
record Item:
    name: str(max_tokens=6)
    age: int(1..90)

program everything(topic: str) -> list[str]:
    system "You are a helpful assistant."
    user "Tell me about {topic}."
    assistant gen first(max_tokens=12)
    fork colour in ["red", "blue"] as more:
        user "And {colour}?"
        assistant gen word(max_tokens=8)
        yield word
    user "Grade it."
    assistant:
        "Grade: "
        select grade from ["A", "B", "C"]
        " because "
        gen why(max_tokens=8, stop="\\n")
    user "A number?"
    assistant gen number: int(1..10)
    user "A record?"
    assistant gen item(max_tokens=60): Item
    user "Again?"
    assistant gen again: choice["yes", "no"]
    user "Code?"
    assistant gen code(max_tokens=8): regex "[A-Z]{2}[0-9]"
    user "Likely?"
    assistant gen said(max_tokens=4, logprobs=true)
    return [first] + more
"""

SCORED = """
program scored(start: str) -> float:
    "{start} "
    select ending(by="greedy") from ["a girl", "a boy", "two cats"]
    return score(" and so it was")
"""


def free_port() -> int:
    """Return a port that nobody has, below those that the system gives to who asks for any: until
    the server takes it nobody else does."""
    for port in random.SystemRandom().sample(range(15_000, 32_000), 100):
        with socket.socket() as server, suppress(OSError):
            server.bind(("127.0.0.1", port))
            return port
    pytest.fail("a hundred ports are taken")


@contextmanager
def served(command: list[str], port: int, ready: str, log: Path) -> Iterator[None]:
    """Run a server until the block ends; it is up when `ready` answers."""
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=quiet, cwd=log.parent)
        try:
            for _ in range(5000):
                time.sleep(0.1)
                if process.poll() is not None:
                    pytest.fail(f"the server ended: {log.read_text()[-800:]}")
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}{ready}", timeout=2).close()
                    break
                except OSError:
                    continue
            else:
                pytest.fail(f"the server did not come up: {log.read_text()[-800:]}")
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture(scope="module")
def transformers_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    for package in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(package, reason="transformers serve needs transformers[serving]")
    port, log = free_port(), tmp_path_factory.mktemp("serve") / "log"
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(FOLDER),
               "--port", str(port), "--host", "127.0.0.1", "--device", "cpu",
               "--dtype", "float32"]  # fmt: skip
    with served(command, port, "/health", log):
        yield f"openai:http://127.0.0.1:{port}/v1#{FOLDER}"


@pytest.fixture(scope="module")
def llama_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    needed = ("llama_cpp", "gguf", "sse_starlette", "starlette_context", "pydantic_settings")
    for package in needed:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"llama.cpp's server needs {package} (llama-cpp-python[server], gguf)")
    folder = tmp_path_factory.mktemp("llama")
    export = [sys.executable, "-m", "bench.engines.gguf", str(FOLDER), str(folder / "m.gguf")]
    subprocess.run(export, check=True, cwd=ZOO.parent, capture_output=True)
    port = free_port()
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(folder / "m.gguf"),
               "--port", str(port), "--host", "127.0.0.1", "--logits_all", "true", "--n_ctx",
               "2048", "--model_alias", "tiny", "--n_threads", "1"]  # fmt: skip
    with served(command, port, "/v1/models", folder / "log"):
        yield f"openai:http://127.0.0.1:{port}/v1#tiny"


@pytest.fixture(scope="module")
def here() -> dict[str, weft.Executable]:
    """The programs compiled for the model here, by its graph's meaning."""
    texts = {"talk": TALK, "everything": EVERYTHING, "scored": SCORED}
    return {name: weft.compile(text, executor="reference") for name, text in texts.items()}


@pytest.mark.slow  # its server starts in 15 s; other tests speak with endpoints of ours
def test_transformers_says_what_we_say(transformers_model, here):
    expected = here["talk"].run(topic="girls")
    executable = weft.compile(TALK, transformers_model)
    result = executable.run(topic="girls")
    assert result.value == expected.value and result.values == expected.values
    assert result.stats.prompt_tokens > 0 and _calls(executable) == 3
    as_text = weft.compile(TALK, transformers_model, **TEMPLATE).run(topic="girls")
    assert as_text.value == expected.value


@pytest.mark.slow  # its server starts in 15 s; other tests speak with endpoints of ours
def test_transformers_streams(transformers_model, here):
    events = list(weft.compile(TALK, transformers_model).stream(topic="girls"))
    said = "".join(e.text for e in events if isinstance(e, TextPiece) and e.name == "first")
    assert said == events[-1].result.values["first"] == here["talk"].run(topic="girls").value[0]


@pytest.mark.slow  # its server starts in 15 s; other tests speak with endpoints of ours
def test_transformers_continues_no_message(transformers_model):
    text = 'program p() -> str:\n    user "Go"\n    assistant:\n        "So "\n        gen g\n'
    with pytest.raises(Lacks, match="begins another"):
        weft.compile(text + "    return g\n", transformers_model).run()


def test_llama_says_what_we_say(llama_model, here):
    expected = here["everything"].run(topic="girls")
    result = weft.compile(EVERYTHING, llama_model, **TEMPLATE).run(topic="girls")
    assert result.value == expected.value and result.values == expected.values
    ours, theirs = expected.values["grade"].probs, result.values["grade"].probs
    assert theirs == pytest.approx(ours, abs=2e-3)
    assert result.values["said"].logprobs == pytest.approx(
        expected.values["said"].logprobs, abs=2e-3
    )


def test_llama_scores(llama_model, here):
    expected = here["scored"].run(start="Once upon a time there was")
    result = weft.compile(SCORED, llama_model, **TEMPLATE).run(start="Once upon a time there was")
    assert result.values["ending"] == expected.values["ending"]
    assert result.value == pytest.approx(expected.value, abs=0.02)


def test_llama_runs_rows_side_by_side(llama_model, tmp_path):
    executable = weft.compile(TALK, llama_model, remote_concurrency=4)
    rows = [{"topic": topic} for topic in ("girls", "cats", "Python")]
    values = executable.run_rows(rows, tmp_path / "out.jsonl").values
    assert values == [executable.run(**row).value for row in rows]


def test_llama_shares_a_call_among_gens(llama_model):
    text = """
program p() -> list[str]:
    "Name: Tom, age: 3\\nName: Ann, age: 4\\nName: Tom, age: 3\\nName: Ann, age: 4\\nName:"
    gen name(max_tokens=8, stop=",")
    ", age:"
    gen age(max_tokens=4, stop="\\n")
    return [name, age]
"""
    together = weft.compile(text, llama_model)
    apart = weft.compile(text, llama_model, remote_merge=False)
    assert together.run().value == apart.run().value
    assert (_calls(together), _calls(apart)) == (1, 2)


def _calls(executable: weft.Executable) -> int:
    """Return the calls that were made, those that the connection broke off not counted."""
    engine: Any = executable.engine
    return engine.steps - engine.retries
