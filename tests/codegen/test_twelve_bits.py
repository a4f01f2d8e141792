"""Kernels of pages in twelve bits: what torch makes of them, proven within bounds, compiled."""

import pytest
import torch
from weft.codegen.bounds.proofs import ensure_proven
from weft.passes.tile.products.twelve_bits import kernels, put_rare, widen
from weft.runtime.offload.pages import PageShape, Part
from weft.runtime.offload.twelve_bits import by_kernels, pack, twelve_bit_shape
from weft.tests.codegen.kernel_case import interpreted


def packed_page() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    numbers = torch.randn(300, 64, generator=torch.Generator().manual_seed(5)).bfloat16()
    numbers[3, :5] = torch.tensor([0.0, -0.0, float("inf"), 1e30, -1e-39]).bfloat16()
    shape = twelve_bit_shape(PageShape((Part("down", (300, 64), torch.bfloat16),)))
    words, rare = (torch.zeros(part.shape, dtype=part.dtype) for part in shape.parts)
    pack(numbers, words, rare)
    return numbers, words, rare


@pytest.mark.parametrize("by", ["meaning", "triton"])
def test_they_bring_every_number_back(by: str, triton_interpreter) -> None:
    check(interpreted if by == "meaning" else triton_interpreter.run)


@pytest.mark.gpu
def test_gpu(gpu) -> None:
    check(gpu)


def check(run) -> None:
    def launcher(kernel):
        def launch(*arguments):
            given = [a.numpy() if isinstance(a, torch.Tensor) else a for a in arguments]
            arguments[-1].copy_(torch.from_numpy(run(kernel, given)[-1]))

        return launch

    numbers, words, rare = packed_page()
    made = torch.empty_like(numbers)
    launch = {"widen_bf12": launcher(widen()), "put_rare_bf12": launcher(put_rare())}
    by_kernels(launch)(made, words, rare)
    assert torch.equal(made.view(torch.int16), numbers.view(torch.int16))


def test_they_stay_within_their_buffers() -> None:
    assert len(ensure_proven([operation for operation, _ in kernels()])) == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_they_compile_for_a_gpu(number: int) -> None:
    pytest.importorskip("triton")
    from weft.codegen.triton.compile import compile_offline

    assert len(compile_offline(*kernels()[number])["cubin"]) > 1000
