"""Where a device did nothing is found from what ran on it."""

from __future__ import annotations

from weft.bench.gpu_profile import Busy, idle_text, short


def test_times_without_a_kernel_are_summed_and_the_longest_named():
    ran = [
        Busy("late", 2300.0, 2400.0),
        Busy("long", 0.0, 1000.0),
        Busy("inside", 100.0, 200.0),
        Busy("next", 1100.0, 1300.0),
    ]
    first, *places = idle_text(ran, 5).splitlines()
    assert first == "idle 1.1 of 2.4 ms"
    assert places == ["     1.00 ms at      1.3, after next, before late"]
    assert idle_text([], 5) == "nothing ran"


def test_names_of_torchs_kernels_are_told_apart():
    name = "void at::native::elementwise_kernel<128, 4, at::native::gpu_kernel_impl_nocast<"
    assert "CUDAFunctor_add" in short(name + "at::native::CUDAFunctor_add<float>>(int)")
