"""Keys that lie on the GPU in part: the tokens of the whole model, and less on the link."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.compiler.loading import reference_executor
from weft.options import BadOption, Options
from weft.runtime.offload import keys
from weft.runtime.offload.key_homes import KeyHomes, kept_on_device
from weft.tests.runtime.offload.offload_cases import LIMITS, MIB, greedy, policy, step

PROMPTS = (tuple(range(50, 75)), (3, 4), tuple(range(100, 121)))
"""Of two pages, of one, of two."""


@pytest.fixture(scope="module")
def whole(cases):
    """The tokens of the model in one piece."""
    options = Options(**LIMITS)
    reference = reference_executor(cases.checkpoint, cases.checkpoint.graph, options)
    return greedy(reference, prompts=PROMPTS)


def pools(host, device):
    def make(count):
        return tuple(torch.zeros(2, count, 1, 4, 2) for _ in "kv")

    return KeyHomes(make(host), make(device) if device else None)


@given(st.integers(1, 200), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_every_page_has_one_home_and_any_run_has_its_share_on_the_device(count, share):
    kept = kept_on_device(count, share)
    homes = pools(count - kept, kept)
    near, places = homes.find(torch.arange(count))
    assert int(near.sum()) == kept and homes.count == count
    assert places[near].tolist() == list(range(kept))
    assert places[~near].tolist() == list(range(count - kept))
    for first in range(0, count, 7):
        run = near[first : first + 20]
        assert abs(int(run.sum()) - len(run) * kept / count) < 1


@pytest.mark.parametrize("source", range(4))
@pytest.mark.parametrize("target", range(4))
def test_a_page_is_copied_wherever_it_lies(source, target):
    homes = pools(2, 2)
    near, places = homes.find(torch.arange(4))
    for page, (there, place) in enumerate(zip(near.tolist(), places.tolist(), strict=True)):
        for pool in homes.device if there else homes.host:  # type: ignore[union-attr]
            pool[:, place] = page + 1.0
    homes.copy(source, target)
    there, place = bool(near[target]), int(places[target])
    for pool in homes.device if there else homes.host:  # type: ignore[union-attr]
        assert (pool[:, place] == source + 1.0).all()


@pytest.mark.parametrize("share", [0.4, 0.5, 1.0])
def test_tokens_equal_the_whole_models_and_the_link_carries_the_rest(
    share, cases, whole, monkeypatch
):
    carried, real = [], keys.fetch

    def counted(device, target, source, pages):
        carried.append(len(pages))
        real(device, target, source, pages)

    monkeypatch.setattr(keys, "fetch", counted)
    counts = []
    for kept in (0.0, share):
        carried.clear()
        executor = cases.executor(replace(policy("s4"), kv_gpu=kept))
        assert greedy(executor, prompts=PROMPTS) == whole
        counts.append((sum(carried), executor.host_bytes))
        assert executor.device.memory.peak <= executor.device.memory.cap
        executor.close()
    kept = kept_on_device(executor.num_pages, share)
    near, _ = pools(executor.num_pages - kept, kept).find(torch.tensor([0, 1, 2, 4, 5]))
    assert 0 < near.sum() and counts[1][0] / counts[0][0] == pytest.approx(1 - near.sum() / 5)
    assert counts[0][1] - counts[1][1] == kept * executor.page_bytes


def test_pages_are_copied_between_memories_in_a_run(cases):
    options = Options(**LIMITS)
    reference = reference_executor(cases.checkpoint, cases.checkpoint.graph, options)
    executor = cases.executor(replace(policy("s4"), kv_gpu=0.5))
    for each in (step((range(60, 97), 0, [2, 3, 4])), step(((5,), 37, [2, 3, 4]))):
        torch.testing.assert_close(executor.forward(each), reference.forward(each),
                                   atol=1e-4, rtol=1e-4)  # fmt: skip
    for source, target in ((2, 7), (3, 6)):
        executor.copy_page(source, target)
        reference.copy_page(source, target)
    each = step(((8,), 38, [7, 6, 4]))
    torch.testing.assert_close(executor.forward(each), reference.forward(each),
                               atol=1e-4, rtol=1e-4)  # fmt: skip
    executor.close()


def test_a_share_is_asked_for_or_searched_and_its_memory_counted(cases, whole):
    made = cases.offloading(None, gpu_memory=20 * MIB, offload_kv_gpu=0.5)
    assert made.policy.kv_gpu == 0.5 and made.policy.schedule == "s4"
    executor = made.executor(made.kernels([]))
    assert greedy(executor, 2, PROMPTS) == [tokens[:2] for tokens in whole]
    memory = executor.device.memory
    assert memory.peak <= memory.cap and memory.held["keys kept"] > 0
    executor.close()
    plenty = cases.offloading(None, gpu_memory=60 * MIB, offload_schedule="s4").policy
    assert plenty.kv_gpu > 0  # nothing else that the memory would be good for
    with pytest.raises(BadOption, match="a share from 0 to 1, not 1.5"):
        cases.offloading(None, offload_kv_gpu=1.5)
    with pytest.raises(BadOption, match="not with cgo"):
        cases.offloading(None, offload_kv_gpu=0.5, offload_schedule="cgo")
