"""`weft kernels`: each kernel of a step, with its share of the roof."""

import json

from weft.tests.cli.test_cli import weft


def test_a_step_may_be_larger_than_a_run_has_by_default():
    printed = weft("kernels", "--batch", "40", "--no-measure")
    assert "a decode step of 40 x 256 tokens" in printed and "f32[40," in printed


def test_kernels_lists_each_with_its_share_of_the_roof():
    lines = json.loads(weft("kernels", "--model", "tiny-dense", "--json"))
    head = next(line for line in lines if line["shape"].endswith("> f32[1,4096]"))
    assert head["measured_us"] > 0 and head["gb_s"] > 0 and head["percent_of_roof"] > 0
    assert head["launches"] == 1 and "matmul" in head["kernel"]
    printed = weft("kernels", "--model", "tiny-dense", "--prefill", "40", "--no-measure")
    assert "a prompt of 40 tokens" in printed and "library" in printed
