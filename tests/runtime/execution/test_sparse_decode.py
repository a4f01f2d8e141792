"""Sparse decode in the compiled executor: the oracle's tokens, dense where nothing is left out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import weft
from weft.compiler import Compilation
from weft.compiler.attention import TwoPolicies, asked_attention, priced_by
from weft.compiler.loading import page_count
from weft.cost_model.hardware import NoSuchFigure
from weft.cost_model.hardware_file import load, save
from weft.frontend.checkpoints.checkpoint import open_checkpoint
from weft.frontend.semantics.errors import WrongOption
from weft.ir.sparse.calibration import NotCalibrated, OtherModel
from weft.ir.sparse.calibration_file import FILE_NAME as CALIBRATION
from weft.ir.sparse.loss_table import LosesMore, MeasuredLoss, NoLossTable, save_losses
from weft.ir.sparse.policy import BadPolicy
from weft.options import BadOption, Options
from weft.runtime.execution import short_steps
from weft.runtime.execution.step import StepInput

pytestmark = pytest.mark.usefixtures("one_thread")
PROGRAM = """program ask(question: str) -> str:
    "The quick brown fox jumps over the lazy dog. Question: {question}\\nAnswer:"
    gen answer(max_tokens=40, temperature=0)
    return answer
"""
POLICIES = ["sparse(k=20, sinks=2, recent=6, min_context=0, labels=bf16)",
            "sparse(ratio=1/3, sinks=1, recent=2, min_context=24, labels=i4, dense=[0, 2])",
            "sparse(k=40, unit=page, sinks=1, recent=3, min_context=0, labels=i8)",
            "sparse(k=20, sinks=2, recent=6, min_context=0, labels=i4, tail=mean)"]  # fmt: skip


def executor(attention: str, **changes: Any) -> Any:
    options = Options.from_env().changed(attention=attention, attention_always=True, **changes)
    return Compilation(PROGRAM, "tiny-dense", options=options).executor


def steps_of(batch: list[tuple[list[int], int, list[int]]]) -> StepInput:
    """Return a step of sequences: (tokens, positions of the first, pages)."""

    def ints(values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32)

    tokens = [token for new, _, _ in batch for token in new]
    positions = [start + place for new, start, _ in batch for place in range(len(new))]
    slots = [
        pages[(start + p) // 16] * 16 + (start + p) % 16
        for new, start, pages in batch
        for p in range(len(new))
    ]
    starts = [0]
    for new, _, _ in batch:
        starts.append(starts[-1] + len(new))
    return StepInput(
        ints(tokens),
        ints(positions),
        ints(slots),
        ints(starts),
        ints([start + len(new) for new, start, _ in batch]),
        ints([pages for _, _, pages in batch]),
        ints([end - 1 for end in starts[1:]]),
    )


def generate(model: Any, prompts: list[list[int]], count: int) -> list[list[int]]:
    """Return greedy tokens: sequences join one by one, so that steps mix prompts and decode."""
    pages = [list(range(1 + 20 * n, 21 + 20 * n)) for n in range(len(prompts))]
    known, told = [list(prompt) for prompt in prompts], [0] * len(prompts)
    done: list[list[int]] = [[] for _ in prompts]
    step = 0
    while min(map(len, done)) < count:
        active = [n for n in range(len(prompts)) if n * 2 <= step]
        active.sort(key=lambda n: len(known[n]) - told[n] != 1)
        logits = model.forward(steps_of([(known[n][told[n] :], told[n], pages[n]) for n in active]))
        for row, n in enumerate(active):
            told[n] = len(known[n])
            token = int(logits[row].argmax())
            known[n].append(token)
            done[n].append(token)
        step += 1
    return [tokens[:count] for tokens in done]


def prompts() -> list[list[int]]:
    tokenizer = open_checkpoint("tiny-dense").tokenizer
    texts = ["The quick brown fox jumps over the lazy dog. " * 5, "Once upon a time " * 9, "A"]
    return [tokenizer.encode(text)[:90] for text in texts]


@pytest.mark.parametrize(
    "policy", [POLICIES[0], *(pytest.param(text, marks=pytest.mark.slow) for text in POLICIES[1:])]
)
def test_tokens_are_the_oracles(policy: str) -> None:
    model = executor(policy)
    short_steps.measured(model)  # as a first run does: of more rows than a decode step has
    found = generate(model, prompts(), 12)
    assert found == generate(executor(policy, executor="reference"), prompts(), 12)
    assert found != generate(executor("dense"), prompts(), 12)


def test_a_budget_that_covers_the_context_gives_dense_logits() -> None:
    """A planted difference shows: half the budget gives others."""

    def logits(policy: str) -> torch.Tensor:
        model = executor(policy)
        pages = list(range(3, 20))
        model.forward(steps_of([(prompts()[0], 0, pages)]))
        return model.forward(steps_of([([7], len(prompts()[0]), pages)])).clone()

    dense = logits("dense")
    whole = logits("sparse(k=4000, sinks=2, recent=6, min_context=0, labels=bf16)")
    torch.testing.assert_close(whole, dense, rtol=0, atol=2e-4)
    assert (logits(POLICIES[0]) - dense).abs().max() > 1e-2


def test_program() -> None:
    sparse = weft.compile(
        PROGRAM, "tiny-dense", attention=POLICIES[0].replace("k=20", "k=600"), attention_always=True
    )
    dense = weft.compile(PROGRAM, "tiny-dense")
    assert sparse.run(question="Why?").value == dense.run(question="Why?").value


def uncalibrated(folder: Path) -> Path:
    """Return a copy of a shipped model, links to its files, without what calibration adds."""
    source = open_checkpoint("tiny-dense").folder
    assert source is not None
    for file in source.glob("*"):
        if file.is_file() and not file.name.startswith("attention_"):
            (folder / file.name).symlink_to(file)
    return folder


def test_bad_input(tmp_path: Path) -> None:
    bare = uncalibrated(tmp_path)
    with pytest.raises(NotCalibrated, match=f"weft calibrate-attention {bare}"):
        _ = Compilation(
            PROGRAM, bare, options=Options.from_env().changed(attention="sparse(k=64)")
        ).regimes
    for text in ("sparse(k=0)", "sparse(k=-3)", "sparse(unit=page)", "spares(k=64)"):
        with pytest.raises(BadPolicy):
            Options.from_env().changed(attention=text)
    with pytest.raises(BadPolicy, match="no layer 99"):
        _ = Compilation(
            PROGRAM,
            "tiny-dense",
            options=Options.from_env().changed(attention="sparse(k=64, dense=[99])"),
        ).regimes


def test_where_it_does_not_pay_all_stays_dense_and_explain_says_so() -> None:
    options = Options.from_env().changed(attention="sparse(ratio=1, labels=i8)")
    compilation = Compilation(PROGRAM, "tiny-dense", options=options)
    assert not any(regime.sparse for regime in compilation.regimes)
    assert "pays at no context up to 8192" in compilation.explain()
    options = Options.from_env().changed(attention="sparse(ratio=1/16, labels=i8)")
    assert "pays from" in Compilation(PROGRAM, "tiny-dense", options=options).explain()


BLOCK = "attention sparse(k=20, sinks=2, recent=6, min_context=0, labels=bf16)"
BLOCKS = f"""program tell(start: str) -> list[str]:
    "{{start}}"
    with {BLOCK}:
        gen first(max_tokens=12, temperature=0)
    with attention dense:
        gen second(max_tokens=12, temperature=0)
    gen third(max_tokens=12, temperature=0)
    return [first, second, third]
"""


def test_a_block_of_a_program_asks_for_it() -> None:
    start = "Once upon a time there was a little fox who lived in a big forest. One day " * 3

    def told(text: str) -> list[str]:
        executable = weft.compile(text, "tiny-dense", attention_always=True)
        marks = str(executable.plan)
        assert 'attention = "sparse(k=20' in marks or "k=2000" in text
        return executable.run(start=start).value

    found = told(BLOCKS)
    assert found[0] != told(BLOCKS.replace("sparse(k=20", "sparse(k=2000"))[0]
    everywhere = told(BLOCKS.replace("attention dense", BLOCK))
    assert everywhere[0] == found[0] and everywhere[1] != found[1]


def test_two_policies_and_no_policy_are_errors() -> None:
    two = BLOCKS.replace("attention dense", "attention sparse(k=30)")
    with pytest.raises(TwoPolicies, match="one policy at a time"):
        _ = Compilation(two, "tiny-dense").attention
    with pytest.raises(WrongOption, match="k must be above 0"):
        _ = Compilation(BLOCKS.replace("k=20", "k=0"), "tiny-dense").plan


def test_a_budget_of_loss_picks_a_measured_policy(tmp_path: Path) -> None:
    source = open_checkpoint("tiny-dense")
    uncalibrated(tmp_path)
    assert source.folder is not None
    (tmp_path / CALIBRATION).symlink_to(source.folder / CALIBRATION)
    options = Options.from_env().changed(max_loss=0.01)
    with pytest.raises(NoLossTable, match=f"weft evaluate {tmp_path}"):
        _ = Compilation(PROGRAM, tmp_path, options=options).attention
    save_losses(tmp_path / "attention_losses.json", source.identity,
                [MeasuredLoss(f"sparse(k={k})", 0.5 / k, k / 1024, points, 512)
                 for k, points in ((64, 0.5), (32, 0.5), (63, 1.5))])  # fmt: skip
    chosen = Compilation(PROGRAM, tmp_path, options=options).attention
    assert chosen is not None and str(chosen.policy) == "sparse(k=64)"


def test_ranks_refuse_a_program_or_a_budget_that_asks_for_it() -> None:
    """Before anything is compiled, as `attention=sparse(...)` is."""
    for text, changes in ((BLOCKS, {}), (PROGRAM, {"max_loss": 0.05})):
        options = Options.from_env().changed(tp=2, **changes)
        with pytest.raises(BadOption, match="in one process, not with tp"):
            _ = Compilation(text, "tiny-dense", options=options).attention
    with pytest.raises(BadOption, match="in one process, not with tp"):
        Options.from_env().changed(tp=2, attention="sparse(k=64)")


def test_a_budget_of_loss_holds_a_policy_that_a_program_asks_for() -> None:
    options = Options.from_env().changed(max_loss=0.05)
    text = BLOCKS.replace(BLOCK, "attention sparse(top_p=0.8, channels=32)")
    found = Compilation(text, "tiny-dense", options=options).attention
    assert found is not None and not found.default
    with pytest.raises(LosesMore, match="lose 4.24% of .*, and max_loss"):
        _ = Compilation(text, "tiny-dense", options=options.changed(max_loss=0.001)).attention
    with pytest.raises(NoLossTable, match="sparse\\(k=20, .* is not measured"):
        _ = Compilation(BLOCKS, "tiny-dense", options=options).attention


def test_prices_are_of_the_machine_that_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a calibrated file where it describes the target's kind of machine, else a shipped one."""
    file = tmp_path / "cpu.json"
    monkeypatch.setattr("weft.cost_model.hardware_file.hardware_path", lambda: file)
    assert [priced_by(target) for target in ("cpu", "cuda")] == ["cpu-generic", "h200"]
    save(load("cpu-generic"), file)
    assert [priced_by(target) for target in ("cpu", "cuda")] == [str(file), "h200"]
    machine = load("cpu-generic")
    both = replace(machine, levels=(machine.level(), load("h200").level()))
    save(both, file)
    assert [priced_by(target) for target in ("cpu", "cuda")] == [str(file), str(file)]
    assert both.of_kind("gpu").kind == "gpu" and both.of_kind("") == both.of_kind("cpu")
    with pytest.raises(NoSuchFigure, match="level of kind"):
        machine.of_kind("gpu")
    asked = Options.from_env().changed(attention="sparse(k=64)", attention_batch=8)
    said = Compilation(PROGRAM, "tiny-dense", options=asked).explain()
    assert f"by {file} for a batch of 8" in said


def test_what_lies_beside_keys_counts_in_kv_memory() -> None:
    """Labels of 16 channels in 4 bits and, with a tail, a row of sums of v a page."""
    checkpoint, options = (
        open_checkpoint("tiny-dense"),
        Options.from_env().changed(kv_memory=1 << 24),
    )
    config = checkpoint.config
    of_head = 2 * 16 * config.head_dim * 4
    dense = page_count(checkpoint, options)
    for text, beside in (("sparse(k=64)", 16 * 8), ("sparse(k=64, tail=mean)", 16 * 8 + 64 * 4)):
        asked = asked_attention(checkpoint, options.changed(attention=text))
        pages = page_count(checkpoint, options, asked)
        assert pages == int((1 << 24) / (config.layers * config.kv_heads * (of_head + beside)))
        assert pages < dense


def test_a_calibration_file_may_lie_elsewhere(tmp_path: Path) -> None:
    """Also one of the published layout, whose order of channels is another here."""
    checkpoint = open_checkpoint("tiny-dense")
    config, file = checkpoint.config, tmp_path / "published.json"
    order = list(reversed(range(config.head_dim)))
    names = (f"model.layers.{layer}.self_attn.qk_proj" for layer in range(config.layers))
    file.write_text(json.dumps(dict.fromkeys(names, [order] * config.heads)))
    policy = "sparse(k=20, labels=bf16)"
    own, found = (asked_attention(checkpoint, Options(attention=policy, calibration=place))
                  for place in (None, str(file)))  # fmt: skip
    assert own is not None and found is not None and own.calibration != found.calibration
    assert found.calibration.head(1, 0).order == tuple(order)
    with pytest.raises(NotCalibrated, match=f"weft calibrate-attention .* --out {tmp_path}/gone"):
        asked_attention(checkpoint, Options(attention=policy, calibration=tmp_path / "gone"))
    with pytest.raises(BadOption, match="calibration is for sparse attention"):
        asked_attention(checkpoint, Options(calibration=file))
    with pytest.raises(BadOption, match="measured with the model's own calibration"):
        asked_attention(checkpoint, Options(max_loss=0.05, calibration=file))
    with pytest.raises(BadOption, match="calibration is a file, not 3"):
        Options(calibration=3)  # type: ignore[arg-type]
    other = open_checkpoint("tiny-moe").calibration_file
    with pytest.raises(OtherModel):
        asked_attention(checkpoint, Options(attention=policy, calibration=other))
