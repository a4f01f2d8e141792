"""Options: environment, unknown names, impossible values."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from weft.cli.errors import as_typed
from weft.cli.offload import offload_options
from weft.cli.render import parse_size
from weft.compiler import Compilation
from weft.compiler.stages import UnknownKernel, UnknownStage
from weft.cost_model import policy_text
from weft.cost_model.placement import Placement
from weft.cost_model.policy import Policy
from weft.ir.display.units import Size, bytes_text, least_size, seconds_text
from weft.options import BadOption, Launch, Options


def test_the_environment_is_read_in_one_place():
    options = Options.from_env({"WEFT_CACHE": "/tmp/x", "WEFT_THREADS": "3"})
    assert options.cache == Path("/tmp/x") and options.thread_count == 3 and not options.validate
    assert Options.from_env({"WEFT_VALIDATE": "1"}).validate


def test_what_is_no_options_is_told():
    assert Options.of(Options(seed=3)).seed == 3
    with pytest.raises(BadOption, match="options is dict, not Options"):
        Options.of({"seed": 3})


@pytest.mark.parametrize(
    "changes",
    [
        {"threads": -1},
        {"remote_timeout": float("nan")},
        {"weight": "f32"},
        {"weights": "f64"},
        {"max_batch": 0},
        {"seed": -1},
        {"target": "tpu"},
        {"tp": 0},
        {"kv": "int8"},
        {"weights": "fp8"},
        {"kv": "fp8"},
    ],
)
def test_wrong_options_are_refused(changes):
    with pytest.raises(BadOption):
        Options().changed(**changes)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"WEFT_THREADS": "abc"}, "WEFT_THREADS is a whole number, not 'abc'"),
        ({"WEFT_THREADS": "-3"}, "WEFT_THREADS is a number of threads, not -3"),
        ({"WEFT_VALIDATE": "perhaps"}, "WEFT_VALIDATE is yes or no, not 'perhaps'"),
        ({"WEFT_TUNE": "always"}, "tune must be one of cached, off"),
    ],
)
def test_a_wrong_environment_names_the_variable(environment, says):
    with pytest.raises(BadOption, match=says):
        Options.from_env(environment)


def test_a_wrong_rank_names_the_variable():
    with pytest.raises(BadOption, match="WORLD_SIZE is a whole number, not 'two'"):
        Launch.from_env({"RANK": "0", "WORLD_SIZE": "two"})


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MiB", 512 << 20),
        ("2GiB", 2 << 30),
        ("1TiB", 1 << 40),
        ("1.5k", 1536),
        ("100", 100),
        ("16GB", 16 * 10**9),
        ("1.5 kB", 1500),
        ("7B", 7),
        ("2g", 2 << 30),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


def test_a_wrong_size_says_how_to_write_one():
    with pytest.raises(BadOption, match="512MiB"):
        parse_size("lots")
    with pytest.raises(BadOption, match="'infGiB' is no size"):
        parse_size("infGiB")


@pytest.mark.parametrize("count", [0, 1, 1 << 20, (1 << 20) + 1, 5 << 30, 100 << 30])
def test_the_least_size_is_one_that_options_take_and_holds_the_count(count):
    assert 0 <= parse_size(least_size(count)) - count < max(1 << 20, count // 64)


def test_a_size_in_a_message_is_for_people():
    assert f"{Size(1536)}, {Size(3)}" == "1.5 KiB, 3 B" and Size(1536) == 1536


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"attention": 5}, "attention is a text such as .*, not 5"),
     ({"cache": 5}, "cache is a folder, not 5"),
     ({"kv_memory": "1GiB"}, "kv_memory is a whole number, not '1GiB'\nhint: sizes are in bytes"),
     ({"threads": 1.5}, "threads is a whole number, not 1.5"),
     ({"max_batch": 8.0}, "max_batch is a whole number, not 8.0"),
     ({"max_batch": True}, "max_batch is a whole number, not True"),
     ({"max_loss": True}, "max_loss is a number, not True"),
     ({"max_loss": "low"}, "max_loss is a number, not 'low'"),
     ({"prove": "off"}, "prove is yes or no, not 'off'"),
     ({"offload_cpu_experts": "2"}, "offload_cpu_experts is a number, not '2'"),
     ({"offload_host_memory": "1GiB"}, "offload_host_memory is a .*, not '1GiB'\nhint: sizes are"),
     ({"offload_micro_batches": 2.5}, "offload_micro_batches is a whole number, not 2.5"),
     ({"offload_schedule": None}, "offload_schedule is a text, not None"),
     ({"offload_policy": "policy.txt"}, "offload_policy is a Policy, not 'policy.txt'\nhint:"),
     ({"offload_policy": {"batch": 2}}, "offload_policy is a Policy, not {'batch': 2}\nhint:"),
     ({"remote_timeout": "30"}, "remote_timeout is a number, not '30'"),
     ({"remote_key": b"secret"}, "remote_key is a text, not bytes$")],
)  # fmt: skip
def test_an_option_of_another_kind_is_named(changes, says):
    with pytest.raises(BadOption, match=says):
        Options().changed(**changes)


def test_units_are_for_people():
    assert bytes_text(9999 << 40) == "9.8 PiB" and bytes_text(1 << 70) == "1048576.0 PiB"
    assert bytes_text(1536) == "1.5 KiB" and seconds_text(0.00123) == "1.2 ms"


def test_a_users_mistakes_have_one_public_class() -> None:
    import weft

    with pytest.raises(weft.WeftError, match="syntax error"):
        weft.compile("program p( -> int:\n    return 1", "tiny-dense")
    assert "WeftError" in dir(weft)


def test_a_choice_that_may_be_left_out_is_not_listed_as_nothing() -> None:
    with pytest.raises(BadOption, match="activations must be one of bf16, or left out, not 'fp7'"):
        Options(activations="fp7")


def divided(*offload: str, **more: Any) -> Any:
    """What a command has of a divided model's options."""
    none = {"gpu_memory": "20MiB", "host_memory": "", "offload_policy": None}
    return SimpleNamespace(offload=[*offload], **none | more)


@pytest.mark.parametrize("typed", [
    "schedule=s3", "micro_batches=2", "cpu_experts=2", "cpu_experts=0", "pages_per_expert=2",
    "kv_gpu=0.5", "page_format=int8", "routing=r.npz",
])  # fmt: skip
def test_what_a_policy_says_is_not_said_beside_it(typed, tmp_path):
    file = tmp_path / "policy.txt"
    file.write_text(policy_text.dumps(Policy(8, 4, "cpu", (Placement("ssss"),) * 2, 4, 1, 8)))
    given = offload_options(divided(typed, host_memory="1GiB", offload_policy=file), "cpu", {})
    with pytest.raises(BadOption) as found:
        Options().changed(**given)
    name = typed.partition("=")[0]
    said = f"--offload {name}=: the policy (--offload-policy) says that itself"
    assert said in as_typed(found.value).message
    given.pop(f"offload_{name}")
    assert Options().changed(**given).offload.policy.batch == 8


def test_tokens_of_prompts_are_bounded_once():
    """By the policy, where prompts stand beside its steps: another bound would not be kept."""
    apart = Policy(8, 4, "cpu", (Placement("ssss"),) * 2, 4, 1, 8)
    beside = replace(apart, overlap=True, prefill_tokens=64)
    given = {"gpu_memory": 20 << 20, "offload_prompt_tokens": 32}
    assert Options().changed(**given, offload_policy=apart).offload.prompt_tokens == 32
    with pytest.raises(BadOption, match="offload_prompt_tokens: the policy .* says that itself"):
        Options().changed(**given, offload_policy=beside)


@pytest.mark.parametrize(("typed", "said"), [
    ("schedule", "--offload schedule= has no value"),
    ("schedule=", "--offload schedule= has no value"),
    ("schedule=s9", "--offload schedule= must be one of ring, cgo, s2, s3, s4, not 's9'"),
    ("page_format=int9", "--offload page_format= must be one of bf12, int8, int4, or left out"),
    ("cpu_experts=-1", "--offload cpu_experts= is a number from 0 on, not -1"),
    ("cpu_experts=nan", "--offload cpu_experts= is a number from 0 on, not nan"),
    ("cpu_experts=many", "--offload cpu_experts= is a number, not 'many'"),
    ("kv_gpu=-1", "--offload kv_gpu= is a number from 0 on, not -1"),
    ("micro_batches=-2", "--offload micro_batches= must be positive, or 0: chosen"),
])  # fmt: skip
def test_an_offload_option_is_refused_as_it_was_typed(typed, said):
    with pytest.raises(BadOption) as found:
        Options().changed(**offload_options(divided(typed), "cpu", {}))
    assert said in as_typed(found.value).message


@pytest.mark.parametrize(("changes", "typed"), [
    ({"offload_schedule": "s3", "offload_micro_batches": 2},
     "--offload schedule=, --offload micro_batches=: nothing is offloaded"),
    ({"offload_host_memory": 1 << 20}, "--host-memory: nothing is offloaded of a model whose "
     "--gpu-memory has no bound"),
])  # fmt: skip
def test_nothing_is_offloaded_without_a_bound(changes, typed):
    with pytest.raises(BadOption) as found:
        Options().changed(**changes)
    assert typed in as_typed(found.value).message
    assert Options().changed(gpu_memory=1 << 20, **changes).offload.given == list(changes)


def test_a_stage_or_kernel_that_is_not_there_is_told_and_is_no_key():
    program = 'program ask() -> str:\n    "Say "\n    gen word(max_tokens=2)\n    return word\n'
    stages = Compilation(program).executable().stages
    with pytest.raises(
        UnknownStage, match="there is no stage 'nope'\nhint: there are: ast, "
    ) as told:
        stages["nope"]
    assert isinstance(told.value, KeyError) and "nope" not in stages and stages.get("nope") is None
    for stage in ("source", "binary"):
        with pytest.raises(UnknownKernel, match="no kernel has 'nope' in its name"):
            stages[stage]["nope"]
        assert stages[stage].get("nope") is None and next(iter(stages[stage])) in stages[stage]
