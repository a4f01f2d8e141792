"""Sections of a partitioned step lowered for a GPU: formats, and kernels that Triton takes."""

from weft.codegen.triton.emit import emit
from weft.ir.types import dtype_of
from weft.passes.tile.sections import lower_sections
from weft.tests.passes.graph.test_moe_partition import MIXED, MIXTRAL, partitioned


def test_on_a_gpu_activations_are_bf16_and_what_chooses_experts_is_f32():
    step = partitioned(MIXTRAL, MIXED).symbol("step")
    lowered = lower_sections(step, MIXTRAL, {"T": 16, "R": 4, "B": 4}, "cuda")
    by_name = {section.name: section for section in lowered.sections}
    route = by_name["route_0"].function.regions[0]
    types = {value.name: dtype_of(value.type) for value in route.arguments}
    assert types == {"seen": "bf16", "x": "bf16"}
    returned = dict(zip(by_name["route_0"].results, route.operations[-1].operands, strict=True))
    assert {role: dtype_of(value.type) for role, value in returned.items()} == {
        "x": "bf16", "normed": "bf16", "weights": "f32", "order": "i32", "starts": "i32",
    }  # fmt: skip
    (logits,) = by_name["head"].function.regions[0].operations[-1].operands
    assert dtype_of(logits.type) == "f32"
    host = by_name["attend_0_host"].function.regions[0]
    assert {dtype_of(v.type) for v in host.arguments if v.name == "q"} == {"f32"}


def test_every_kernel_of_the_gpus_sections_is_one_that_triton_takes():
    step = partitioned(MIXTRAL, MIXED).symbol("step")
    lowered = lower_sections(step, MIXTRAL, {"T": 16, "R": 4, "B": 4}, "cuda")
    names = {op["name"].name for op, _ in lowered.kernels["device"]}
    assert any("paged" in name for name in names) and len(names) >= 8
    for op, schedule in lowered.kernels["device"]:
        assert f"def {op['name'].name}" in emit(op, schedule).text
