"""Logits of some words: text in and text out, the same numbers, and what is left as it is."""

import torch
from weft.codegen.meaning.graph_reference import GraphRun
from weft.frontend.models.registry import build_graph
from weft.ir.model import ModelConfig, Rope
from weft.ir.parser import parse_module
from weft.ir.verifier import verify
from weft.passes.graph.allowed_head import AllowedHead
from weft.passes.graph.tensor_parallel import TensorParallel
from weft.passes.manager import Context, run_passes
from weft.passes.tile.regimes import lower_model, with_narrow
from weft.runtime.execution.weights import RandomTensors, load_weights

SHAPE = ModelConfig("LlamaForCausalLM", 96, 32, 2, 4, 2, 16, 48, 128, Rope(1e4), windows=(0, 0))


def rewritten(text):
    context = Context()
    module, _ = run_passes((AllowedHead(),), parse_module(text), context)
    return str(module).splitlines(), [remark.message for remark in context.remarks]


UNTIED = """graph.func name = @step { |%x: tensor<f32, [R, 8]>|
  %w_head = graph.weight tensors = "lm_head.weight" : tensor<bf16, [64, 8]>
  %logits = graph.matmul %x, %w_head : tensor<f32, [R, 64]>
  graph.return %logits
}
"""


def test_words_become_an_argument():
    lines, said = rewritten(UNTIED)
    assert lines == [
        'graph.func name = @step, head = "w_head" { '
        "|%x: tensor<f32, [R, 8]>, %words: tensor<i32, [W]>|",
        '  %w_head = graph.weight tensors = "lm_head.weight" : tensor<bf16, [64, 8]>',
        "  %head = graph.embedding %w_head, %words : tensor<f32, [W, 8]>",
        "  %logits = graph.matmul %x, %head : tensor<f32, [R, W]>",
        "  graph.return %logits",
        "}",
    ]
    assert said == ["logits may be computed of the words only that constraints allow"]


def test_a_table_that_embeds_tokens_serves_both():
    tied = UNTIED.replace("|%x: tensor<f32, [R, 8]>|", "|%ids: tensor<i32, [R]>|").replace(
        "  %logits", "  %x = graph.embedding %w_head, %ids : tensor<f32, [R, 8]>\n  %logits"
    )
    lines, _ = rewritten(tied)
    assert sum("graph.weight" in line for line in lines) == 1
    assert any("graph.matmul %x, %head" in line for line in lines)


def test_what_is_no_plain_product_is_left_and_it_says_why():
    bias = UNTIED.replace("[R, 8]>|", "[R, 8]>, %b: tensor<f32, [64]>|").replace(
        "%x, %w_head", "%x, %w_head, %b"
    )
    lines, said = rewritten(bias)
    assert "\n".join(lines).strip() == str(parse_module(bias)).strip()
    assert said == ["logits are computed of all words: no product without a bias gives them"]
    rank, _ = run_passes((TensorParallel(0, 2), AllowedHead()), build_graph(SHAPE), Context())
    assert rank.symbol("step").attribute("head") is None  # ranks exchange their parts


def test_columns_are_those_of_the_words():
    graph = build_graph(SHAPE)
    narrow, _ = run_passes((AllowedHead(),), graph, Context())
    verify(narrow, ("graph",))
    assert str(parse_module(str(narrow))) == str(narrow)
    dense = {n: weight.dense() for n, weight in load_weights(graph, RandomTensors()).items()}
    rows, words = torch.arange(5), torch.tensor([3, 4, 40, 95])
    inputs = {"tokens": rows * 7, "positions": rows, "slots": rows,
              "query_starts": torch.tensor([0, 5]), "kv_lengths": torch.tensor([5]),
              "page_table": torch.arange(4)[None], "logits_rows": rows}  # fmt: skip
    expected = GraphRun(graph, dense).step(inputs)[:, words]
    found = GraphRun(narrow, dense).step(inputs | {"words": words})
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_regimes_have_one_for_some_words_each():
    plain = lower_model(SHAPE, build_graph(SHAPE), max_tokens=64, max_batch=16)
    both = lower_model(SHAPE, build_graph(SHAPE), max_tokens=64, max_batch=16, narrow=True)
    assert [regime.function for regime in both] == [regime.function for regime in plain]
    assert not any(regime.narrow for regime in plain)
    twins = with_narrow(both)[len(both) :]
    assert [regime.rows for regime in twins] == [1, 4, 16, 0]
    for regime in twins:
        _, weight, words = regime.function.regions[0].operations[-2].operands[:3]
        assert regime.function["head"] == weight.name  # rows are read where they lie
        assert words == regime.function.regions[0].arguments[-1]
