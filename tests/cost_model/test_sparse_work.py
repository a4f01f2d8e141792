"""The work of sparse attention's operations, counted by hand."""

from weft.cost_model.binding import Binding, Formats
from weft.cost_model.scene import Scene
from weft.cost_model.work import work_of
from weft.ir.parser import parse_module

STEP = """
graph.func name = @step {
|%q: tensor<f32, [T, 64]>, %starts: tensor<i32, [B1]>, %slots: tensor<i32, [T]>,
 %pages: tensor<i32, [B, 4]>, %lengths: tensor<i32, [B]>|
  graph.label_write %slots, layer = 0, kv_heads = 2, head_dim = 16, channels = 8, format = "i8"
  graph.value_sums %starts, %lengths, %pages, layer = 0, kv_heads = 2, head_dim = 16
  %labels = graph.kvset %pages, %lengths, layer = 0, kind = labels<8, "i8"> : kvset
  %chosen = graph.select %q, %starts, %labels, layer = 0, heads = 4, kv_heads = 2, head_dim = 16,
    scale = 0.25,
    policy = "sparse(k=32, recent=8, channels=8, labels=i8, tail=mean, min_context=0)"
    : kvset<approximate>
  %near = graph.kvset %pages, %lengths, layer = 0, kind = ends<4, 8, "token"> : kvset
  %brought = graph.fetch %chosen, %near, layer = 0 : kvset<approximate>
  %middle = graph.partial %q, %starts, %chosen, heads = 4, kv_heads = 2, head_dim = 16,
    scale = 0.25 : state<approximate>
  %ends = graph.partial %q, %starts, %near, heads = 4, kv_heads = 2, head_dim = 16, scale = 0.25
    : state
  %both = graph.partial %q, %starts, %brought, heads = 4, kv_heads = 2, head_dim = 16, scale = 0.25
    : state<approximate>
  %tail = graph.tail %q, %starts, %labels, %chosen, layer = 0, heads = 4, kv_heads = 2,
    head_dim = 16, scale = 0.25 : state<approximate>
  graph.return %q
}
"""


def test_each_operation_by_hand() -> None:
    """A row of 100 keys selects 32, one of 10 reads all; of a prompt 5 tokens see 50 keys."""
    binding = Binding((1, 1, 5), (100, 10, 50))
    module = parse_module(STEP)
    scene = Scene.of(module, binding, Formats(kv="bf16"))
    found = {op.results[0].name if op.results else op.kind: work_of(op, scene)
             for op in module.walk()}  # fmt: skip
    label, sums = found["label_write"], found["value_sums"]
    assert (label.flops, label.activation_bytes) == (3 * 7 * 2 * 8, 7 * 2 * 8 * 2)
    assert (label.kv_read_bytes, label.kv_written_bytes) == (0, 7 * 2 * 8)
    assert (sums.flops, sums.kv_read_bytes) == (7 * 2 * 16, 7 * 2 * 16 * 2)
    assert sums.kv_written_bytes == 7 * 2 * 16 * 4 / 16
    select, scores, lists = found["chosen"], 2 * 100 * 4 * (1 + 4), 2 * 32 * 2 * 4
    assert (select.flops, select.kv_read_bytes) == ((2 * 8 * 4 + 4 * 2) * 100, 2 * 100 * 8)
    assert select.activation_bytes == scores + lists
    chosen, near = (20, 0, 38), (12, 10, 12)
    read = {"middle": chosen, "ends": near, "both": tuple(map(sum, zip(chosen, near, strict=True)))}
    for name, keys in read.items():
        assert found[name].kv_read_bytes == 2 * sum(keys) * 2 * 16 * 2, name
        assert found[name].flops == (4 * 16 + 5) * 4 * (keys[0] + keys[1] + 5 * keys[2]), name
    tail = found["tail"]
    assert tail.flops == 4 * (2 * 100 + 6 * 16), "of rows that select, as others have no tail"
    assert tail.activation_bytes == 12 * 2 * 16 + 16 * 4
