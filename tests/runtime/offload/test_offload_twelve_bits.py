"""Pages of twelve bits a number: every bf16 comes back, and tokens are those of plain pages."""

import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from weft.cost_model.placement import Placement
from weft.passes.graph.moe_partition import PolicyMismatch
from weft.runtime.devices.memory import Memory
from weft.runtime.devices.streams import SimulatedDevice
from weft.runtime.offload.packed import Packed
from weft.runtime.offload.pages import PageShape, Part
from weft.runtime.offload.stored import NotSixteenBits
from weft.runtime.offload.twelve_bits import (
    HEAD,
    RARE,
    TooManyRare,
    pack,
    twelve_bit_shape,
    widen,
)
from weft.tests.runtime.offload.offload_cases import PROMPTS, greedy, policy, step

STREAMED = tuple(map(Placement, ("rrrsssss", "ssssssss", "rrrrrrrr", "ssssssss", "rsssrsss")))


def packed(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    shape = twelve_bit_shape(PageShape((Part("down", tuple(numbers.shape), numbers.dtype),)))
    words, rare = (torch.zeros(part.shape, dtype=part.dtype) for part in shape.parts)
    pack(numbers, words, rare)
    return words, rare


def normal(rows: int, seed: int) -> torch.Tensor:
    drawn = torch.randn(rows, 64, generator=torch.Generator().manual_seed(seed))
    return (0.02 * drawn).bfloat16()


def bits(numbers: torch.Tensor) -> torch.Tensor:
    return numbers.view(torch.int16)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(0, 99), st.lists(st.integers(0, 65535), max_size=4))
def test_every_number_comes_back(rows: int, seed: int, odd: list[int]) -> None:
    """Zeros, numbers next to them, infinities and no numbers too."""
    numbers = normal(rows, seed)
    for place, value in enumerate(odd):
        bits(numbers).view(-1)[place * 7] = value - 32768
    made = torch.empty_like(numbers)
    widen(made, *packed(numbers))
    assert torch.equal(bits(made), bits(numbers))


def test_weights_that_are_zero_for_the_most_part_do_not_choose_the_exponents() -> None:
    """As pruned ones are: zeros have a code of their own."""
    numbers = normal(40, 0)
    numbers[torch.rand(numbers.shape, generator=torch.Generator().manual_seed(1)) < 0.9] = 0
    made = torch.empty_like(numbers)
    widen(made, *packed(numbers))
    assert torch.equal(bits(made), bits(numbers))


def test_a_page_is_a_quarter_smaller_and_few_words_are_rare() -> None:
    numbers = torch.randn(512, 1024).bfloat16()
    words, rare = packed(numbers)
    assert words.nbytes + rare.nbytes < 0.76 * numbers.nbytes
    places = rare[HEAD:].view(2, -1)[0]
    assert 0 < int((places >= 0).sum()) < 0.5 * len(places)


class Late(SimulatedDevice):
    """A device whose other streams do nothing before somebody waits for them."""

    def beside(self, queue, work) -> Any:
        return [work]

    def hold_until(self, event):
        while event:
            event.pop()()


class Careless(Late):
    """The same, and copies wait for nothing."""

    def hold_until(self, event):
        pass


@pytest.mark.parametrize("kind", [Late, Careless])
def test_a_part_is_widened_before_the_next_one_comes_to_its_room(kind) -> None:
    device = kind(Memory("cpu", 1 << 20))
    pages = [normal(32, seed) for seed in (1, 2)]
    sources = [dict(zip(("down", "down" + RARE), packed(page), strict=True)) for page in pages]
    rooms = {role: torch.zeros_like(part) for role, part in sources[0].items()}
    made = torch.zeros(2, *pages[0].shape, dtype=torch.bfloat16)
    arriving = Packed(device, rooms)
    events = [arriving.bring("down", made[n], sources[n], device.copy) for n in range(2)]
    for event in events:
        Late.hold_until(device, event)
    right = [torch.equal(bits(each), bits(page)) for each, page in zip(made, pages, strict=True)]
    assert right == [kind is Late, True]


def test_exponents_spread_too_far_are_refused() -> None:
    numbers = torch.exp2(torch.linspace(-60, 60, 4096)).bfloat16().view(64, 64)
    with pytest.raises(TooManyRare, match="twelve bits"):
        packed(numbers)


def test_tokens_are_those_of_plain_pages(cases) -> None:
    """The same logits, with a quarter less on the link."""
    made, logits = {}, {}
    for format in ("bf16", "bf12"):
        chosen = replace(policy("ring", STREAMED), page_format=format)
        executor = cases.executor(chosen, weights="bf16")
        first = executor.forward(step((PROMPTS[0], 0, [0, 1])))
        logits[format], made[format] = first.clone(), greedy(executor)
        assert not any("lossy" in note for note in executor.notes)
        executor.close()
    assert made["bf12"] == made["bf16"]
    assert torch.equal(logits["bf12"], logits["bf16"])


def test_what_cannot_be_packed_is_refused(cases) -> None:
    chosen = replace(policy("ring", STREAMED), page_format="bf12")
    with pytest.raises(NotSixteenBits, match="are float32"):
        cases.executor(chosen)
    on_cpu = (*STREAMED[:4], Placement("sssssscc"))
    with pytest.raises(PolicyMismatch, match="experts on the CPU, in pages of bf12, but") as found:
        cases.executor(replace(chosen, layers=on_cpu), weights="bf16")
    assert "cpu_experts=0" in found.value.hint_text


def test_what_is_rounded_before_it_is_packed_is_said(cases, tmp_path) -> None:
    folder = tmp_path / "tiny-moe"
    shutil.copytree(cases.checkpoint.folder, folder)
    stored = load_file(folder / "model.safetensors")
    half = {name: each.half() for name, each in stored.items()}
    chosen, notes = replace(policy("ring", STREAMED), page_format="bf12"), []
    for content in (stored, half):
        save_file(content, folder / "model.safetensors")
        executor = cases.executor(chosen, weights="bf16", folder=folder)
        notes.append([note for note in executor.notes if "rounded" in note])
        executor.close()
    assert notes == [[], ["pages of bf12 hold bf16, exactly: F16 is rounded to it"]]
