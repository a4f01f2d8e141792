"""Equations 4 to 11 and roofs over any number of levels."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weft.cost_model.hardware import Hardware, Level, Link, Memory, NoSuchFigure, Rate
from weft.cost_model.hrm import equations
from weft.cost_model.hrm.hierarchy import Hierarchy


def level(name: str, bandwidth: float, flops: float) -> Level:
    memory = Memory("main", 1e12, Rate.exact(bandwidth), Rate.exact(bandwidth))
    return Level(name, name, (memory,), {"f32": Rate.exact(flops)}, {}, {})


NEAR, FAR, LINK = level("gpu", 300e9, 242e12), level("cpu", 100e9, 1.3e12), Rate.exact(16e9)


def test_turning_points_of_the_published_case() -> None:
    """An L4 and its host: P1 of the feed-forward layer 81 FLOP/B, P2 599 at 128 a micro-batch."""
    many = 1e6
    assert equations.stay_below(many, FAR, LINK) == pytest.approx(1.3e12 / 16e9)
    near = equations.ffn_intensity(128, 2, 8)
    assert near == 32
    assert equations.link_bound_below(near, NEAR, LINK) == pytest.approx(600)
    assert equations.balance_batch(128, NEAR, LINK) == pytest.approx(2400)


def test_attention_is_left_on_the_host() -> None:
    """Decode attention has 4 FLOP a byte for GQA of 4, far below P1: it stays beside its keys."""
    intensity = equations.attention_intensity(32, 8)
    assert intensity == 4
    assert equations.stay_below(intensity, FAR, LINK) == pytest.approx(100 * 4 / 16)
    assert intensity < equations.stay_below(intensity, FAR, LINK)


rates = st.floats(1e9, 1e15)
intensities = st.floats(1e-2, 1e6)


@given(rates, rates, rates, rates, rates, intensities, intensities)
def test_turning_points_are_where_the_choice_turns(b, p, far_b, far_p, link_b, near_i, far_i):
    """Below P1 the far processor is faster, above it is not; below P2 the link is the bound."""
    near, far, link = level("gpu", b, p), level("cpu", far_b, far_p), Rate.exact(link_b)
    stays = equations.attainable(far_i, far)
    moves = equations.attainable_across(near_i, far_i, near, link)
    if far_i < equations.stay_below(far_i, far, link) * (1 - 1e-9):
        assert moves <= stays
    p2 = equations.link_bound_below(near_i, near, link)
    bound_by_link = moves == pytest.approx(equations.cross_roof(far_i, link))
    assert bound_by_link or far_i >= p2 * (1 - 1e-9)
    ratio = equations.balance_ratio(near, link)
    assert equations.memory_roof(near_i, near) == pytest.approx(
        equations.cross_roof(near_i * ratio, link)
    )


GPU = Level(
    "gpu", "gpu",
    (Memory("L2", 5e7, Rate.exact(5e12), Rate.exact(5e12)),
     Memory("device", 8e10, Rate.exact(3e12), Rate.exact(3e12))),
    {"f32": Rate.exact(6e13)}, {}, {},
)  # fmt: skip
MACHINE = Hardware(
    "m", (GPU, level("cpu", 1e11, 1e12), level("far socket", 1e11, 1e12), level("disk", 6e9, 1.0)),
    (Link("cpu", "gpu", Rate.exact(5e10)), Link("far socket", "cpu", Rate.exact(3e10)),
     Link("disk", "cpu", Rate.exact(6e9))),
)  # fmt: skip


def test_any_number_of_levels() -> None:
    chain = Hierarchy.of(MACHINE)
    names = ["gpu.L2", "gpu.device", "cpu.main", "far socket.main", "disk.main"]
    assert [tier.name for tier in chain.tiers] == names
    bound = chain.attainable({"gpu.L2": 20.0, "gpu.device": 100.0, "disk.main": 1e3})
    assert (bound.name, bound.flops, bound.equation) == ("disk.main", 6e12, 6)
    assert chain.attainable({"gpu.device": 10.0}).equation == 5
    assert chain.attainable({"gpu.device": 1e9}).name == "compute"
    assert [tier.name for tier in Hierarchy.of(MACHINE, "cpu").tiers][0] == "cpu.main"
    with pytest.raises(NoSuchFigure, match=r"gpu\.L2, gpu\.device"):
        chain.roofs({"gpu.tape": 1.0})


def test_two_levels_are_equation_seven() -> None:
    near, far = NEAR, FAR
    machine = Hardware("m", (near, far), (Link("cpu", "gpu", LINK),))
    roof = Hierarchy.of(machine).attainable({"gpu.main": 32.0, "cpu.main": 500.0})
    assert roof.flops == equations.attainable_across(32.0, 500.0, near, LINK)
