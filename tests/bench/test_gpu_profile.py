"""Where a device did nothing is found from what ran on it."""

from __future__ import annotations

from weft.bench.gpu_profile import Busy, idle_text, shares_text, short, steps_of


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


def test_a_kernel_takes_what_passes_from_the_end_before_it_to_its_own():
    ran = [
        Busy("feed_tokens", 0.0, 10.0),
        Busy("waits", 5.0, 110.0),  # launched while the one before runs
        Busy("after a pause", 150.0, 160.0),
        Busy("feed_tokens", 155.0, 165.0),
        Busy("prompts", 165.0, 20165.0),
    ]
    steps = steps_of(ran)
    assert steps == [
        [("feed_tokens", 10.0), ("waits", 100.0), ("after a pause", 10.0)],
        [("feed_tokens", 5.0), ("prompts", 20000.0)],
    ]
    first, *others = shares_text(steps, 2).splitlines()
    assert first == "steps 0.12 20.00"  # 120 us and 20,005
    assert [" ".join(line.split()) for line in others] == [
        "a step of 1 shorter ones:",
        "0.100 ms 1.0 x 100.00 us waits",
        "0.010 ms 1.0 x 10.00 us feed_tokens",
        "all of 1 longer ones:",
        "20.000 ms 1.0 x 20000.00 us prompts",
        "0.005 ms 1.0 x 5.00 us feed_tokens",
    ]
