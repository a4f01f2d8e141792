"""Prompts read beside decode, as a policy: steps are mixed, bounded, and give the same values."""

from dataclasses import replace

import pytest
import weft
from weft.options import BadOption, Options
from weft.passes.manager import Context
from weft.tests.runtime.offload.offload_cases import LIMITS, MIB, policy

PROGRAM = """
program continued(text: str) -> str:
    "{text}"
    gen rest(max_tokens=6)
    return rest
"""
ROWS = [{"text": f"copy: {word} and more of it, {word}"} for word in
        ("dog", "cat", "owl", "fox", "hen", "bee", "ant", "emu", "elk", "cow")]  # fmt: skip


def run(cases, **changes):
    """Return the values of rows, and of each step its rows of decode and those of prompts."""
    options = Options(cache=cases.cache, **LIMITS).changed(max_batch=4, **changes)
    executable = weft.compile(PROGRAM, "tiny-moe", options=options)
    steps, executor = [], executable.engine.executor
    real = executor.forward

    def forward(step):
        lengths = step.query_starts.diff()
        steps.append((int((lengths == 1).sum()), int(lengths[lengths > 1].sum())))
        return real(step)

    executor.forward = forward
    return executable.run_rows(ROWS).values, steps


def test_steps_mix_prompts_with_decode_within_the_bound_and_give_the_same_values(cases):
    whole, _ = run(cases, executor="reference")
    asked = {"gpu_memory": 20 * MIB, "offload_schedule": "ring", "offload_micro_batches": 2,
             "offload_cpu_experts": 1}  # fmt: skip
    values, free = run(cases, **asked)
    bounded, steps = run(cases, **asked, offload_prompt_tokens=5)
    assert values == whole and bounded == whole
    assert max(decode + prompt for decode, prompt in steps) <= 4 + 5 < max(map(sum, free))
    mixed = [(decode, prompt) for decode, prompt in steps if decode and prompt]
    assert len(mixed) > 10 and any(decode >= 3 for decode, _ in mixed)


def test_samples_of_one_prompt_have_one_row_until_they_differ(cases):
    text = """
program drawn(text: str) -> str:
    "{text}"
    fork 5 as samples:
        gen rest(max_tokens=6, temperature=0.7)
        yield rest
    return "{samples}"
"""
    found = []
    for changes in ({"executor": "reference"}, {"gpu_memory": 20 * MIB}):
        options = Options(cache=cases.cache, **LIMITS).changed(max_batch=4, **changes)
        executable = weft.compile(text, "tiny-moe", options=options)
        executable.engine._shared._draws = "gpu_memory" in changes
        rows = executable.run_rows(ROWS[:1])
        found.append((rows.values, executable.engine.computed_tokens))
    (values, each), (same, fewer) = found
    assert same == values and fewer < each


def test_a_policy_that_overlaps_bounds_steps_and_says_so(cases):
    given = replace(policy("ring"), overlap=True, prefill_tokens=9)
    made = cases.offloading(given)
    assert made.options.max_tokens == 8 + 9
    context = Context()
    made._context = lambda: context
    _ = made.module
    texts = [remark.message for record in made.records for remark in record.remarks]
    assert "prompts beside decode, at most 9 tokens of them a step" in texts
    assert any("hold for any durations" in text for text in texts)
    found = cases.offloading(None, gpu_memory=20 * MIB, offload_prompt_tokens=12)
    assert found.policy.overlap and found.policy.prefill_tokens == 12
    with pytest.raises(BadOption, match="offload_prompt_tokens must be positive"):
        cases.offloading(None, offload_prompt_tokens=-1)
