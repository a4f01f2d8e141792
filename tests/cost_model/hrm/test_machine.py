"""What the model takes from a hardware file."""

from dataclasses import replace

import pytest
from weft.cost_model.hardware import Hardware, Rate
from weft.cost_model.hardware_file import load
from weft.cost_model.hrm.demands import Demand
from weft.cost_model.hrm.machine import HostedGpu
from weft.cost_model.hrm.units import on_cpu


def with_attention(
    rates: dict[int, Rate], whole: Rate | None = None, beside: Rate | None = None
) -> Hardware:
    """The shipped machine, its attention's rates of 30 threads replaced."""
    known = {"attention": whole, "attention beside copies": beside}
    found = {name: rate for name, rate in known.items() if rate}
    hardware = load("h200")
    levels = tuple(
        replace(level, vector_by_threads={"attention": rates} if rates else {},
                vector={"f32": level.vector["f32"]} | found)
        if level.name == "cpu" else level
        for level in hardware.levels
    )  # fmt: skip
    return replace(hardware, levels=levels)


@pytest.mark.parametrize(
    ("rates", "quarter"),
    [
        ({}, 1e9),  # as large a share of the rate as of the cores
        ({30: 4e9}, 1e9),  # straight from nothing
        ({4: 2e9, 8: 3e9, 30: 4e9}, 2.875e9),  # 7.5 of 30 threads
        ({2: 2e9}, 2e9),  # no more than was measured
    ],
)
def test_attention_beside_experts_has_the_rate_of_its_threads(rates, quarter) -> None:
    known = {count: Rate.exact(rate) for count, rate in rates.items()}
    machine = HostedGpu.of(with_attention(known, Rate.exact(4e9)))
    assert machine.cpu_vector == 4e9
    assert machine.divided().cpu_vector == pytest.approx(quarter)


def test_rows_of_attention_take_their_start_on_each_core() -> None:
    hardware = load("h200")
    levels = tuple(
        replace(level, launch={**level.launch, "attention row": Rate(1e-6, 2e-6, 4e-6)})
        for level in hardware.levels
    )
    machine = HostedGpu.of(replace(hardware, levels=levels))
    none = replace(machine, row_start=0.0)
    asked = Demand(cpu_rows=100)
    assert asked.seconds(machine) - asked.seconds(none) == pytest.approx(2e-4)
    assert machine.divided().row_start == pytest.approx(8e-6)
    assert on_cpu(asked) == asked


def test_cases_are_the_error_bars_of_attention() -> None:
    whole, few = Rate(1e9, 2e9, 3e9), Rate(4e8, 5e8, 6e8)
    found = with_attention({30: whole, 8: few}, whole)
    worst, best = (HostedGpu.of(found, case) for case in ("min", "max"))
    assert (worst.cpu_vector, best.cpu_vector) == (1e9, 3e9)
    assert worst.divided().cpu_vector < best.divided().cpu_vector


def test_attention_is_priced_as_it_runs_beside_copies_where_that_is_known() -> None:
    rates = {30: Rate.exact(4e9)}
    machine = HostedGpu.of(with_attention(rates, Rate.exact(4e9), Rate.exact(3e9)))
    assert machine.cpu_vector == 3e9
    assert machine.divided().cpu_vector == pytest.approx(7.5e8)
    only = HostedGpu.of(with_attention({}, None, Rate.exact(3e9)))
    assert (only.cpu_vector, only.divided().cpu_vector) == (3e9, 7.5e8)


def test_a_file_without_attention_prices_it_by_the_vector_units() -> None:
    hardware = load("cpu-generic")
    assert "attention" not in hardware.level("cpu").vector
    known = load("h200")
    levels = tuple(
        replace(level, vector={"f32": level.vector["f32"]}) if level.name == "cpu" else level
        for level in known.levels
    )
    machine = HostedGpu.of(replace(known, levels=levels))
    assert machine.cpu_vector == known.level("cpu").vector_rate("f32").median
