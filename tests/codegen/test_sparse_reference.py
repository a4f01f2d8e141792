"""Sparse attention's meaning: the permutation is exact, selection is as `ir.sparse.policy` says."""

import math
import random

import pytest
import torch
from weft.codegen.meaning.graph_reference import GraphRun, Kvset
from weft.codegen.meaning.sparse_reference import (
    SparseAttention,
    label_scores,
    permuted,
    quantized_labels,
    select,
)
from weft.codegen.measure.observe_attention import AttentionObserver
from weft.frontend.models.registry import build_graph
from weft.ir.model import ModelConfig, Rope
from weft.ir.sparse.calibration import HeadChannels, Provenance
from weft.ir.sparse.policy import SparsePolicy
from weft.runtime.execution.weights import RandomTensors, load_weights

CONFIG = ModelConfig("LlamaForCausalLM", 64, 32, 2, 4, 2, 16, 48, 512, Rope(), windows=(0, 0))
TOKENS = torch.randint(0, 64, (150,), generator=torch.Generator().manual_seed(3)).tolist()


def logits(attend=None, config=CONFIG, tokens=TOKENS, chunk=1000, dtype=torch.float64):
    module = build_graph(config)
    weights = {n: w.dense() for n, w in load_weights(module, RandomTensors()).items()}
    run = GraphRun(module, weights, slots=160, dtype=dtype, attend=attend)
    found = []
    for at in range(0, len(tokens), chunk):
        part = torch.arange(at, min(at + chunk, len(tokens)))
        found.append(run.step({
            "tokens": torch.tensor(tokens)[part], "positions": part, "slots": part,
            "query_starts": torch.tensor([0, len(part)]), "page_table": torch.arange(10)[None],
            "kv_lengths": part[-1:] + 1, "logits_rows": torch.arange(len(part)),
        }))  # fmt: skip
    return torch.cat(found)


@pytest.fixture(scope="module")
def calibration():
    observer = AttentionObserver()
    logits(observer)
    return observer.chosen(Provenance())


def heads_of(kv_heads, width, seed):
    rng = random.Random(seed)
    ranges = [tuple(rng.uniform(0.2, 2) for _ in range(width)) for _ in range(3)]
    return [HeadChannels(tuple(rng.sample(range(width), width)), *ranges) for _ in range(kv_heads)]


def test_permuting_q_and_k_after_rope_leaves_every_score():
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(5, 4, 16, generator=generator, dtype=torch.float64)
    k = torch.randn(9, 2, 16, generator=generator, dtype=torch.float64)
    heads = heads_of(2, 16, seed=1)
    p, r = permuted(q, heads), permuted(k, heads)
    before = torch.einsum("tkgc,skc->kgts", q.unflatten(1, (2, 2)), k)
    after = torch.einsum("tkgc,skc->kgts", p.unflatten(1, (2, 2)), r)
    torch.testing.assert_close(after, before, rtol=1e-13, atol=1e-13)
    for number, head in enumerate(heads):  # a label is a prefix slice of the row of k
        assert torch.equal(r[:, number, :4], k[:, number, list(head.order[:4])])


def test_attention_over_permuted_rows_equals_dense_attention(calibration):
    """In a whole model: k and q are permuted where they are written, v is not."""
    from weft.codegen.meaning.graph_reference import dense_partial

    written = {}

    def attend(run, operation, q, starts, kvset):
        heads, layer = calibration.layers[kvset.layer], kvset.layer
        plain = run.keys[layer]
        run.keys[layer] = permuted(plain.unflatten(-1, (2, 16)), heads).flatten(-2)
        written[layer] = not torch.equal(run.keys[layer], plain)
        q = permuted(q.unflatten(-1, (4, 16)), heads).flatten(-2)
        state = dense_partial(run, operation, q, starts, kvset)
        run.keys[layer] = plain
        return state

    torch.testing.assert_close(logits(attend), logits(), rtol=1e-10, atol=1e-10)
    assert all(written.values())


@pytest.mark.parametrize("policy", [SparsePolicy(ratio=1.0, min_context=0),
                                    SparsePolicy(top_p=1.0, min_context=0),
                                    SparsePolicy(ratio=1.0, min_context=0, tail="mean"),
                                    SparsePolicy(threshold=1e-30, min_context=0),
                                    SparsePolicy(k=20, min_context=150),
                                    SparsePolicy(k=20, min_context=0, dense=(0, 1)),
                                    SparsePolicy(k=200, min_context=0, labels="bf16")])  # fmt: skip
def test_a_policy_that_reads_all_is_dense_attention(calibration, policy):
    sparse = SparseAttention(policy, calibration)
    torch.testing.assert_close(logits(sparse), logits(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("labels", ["bf16", "i8", "i4"])
@pytest.mark.parametrize("unit", ["token", "page"])
def test_few_keys_change_the_logits_and_chunks_do_not(calibration, labels, unit):
    policy = SparsePolicy(k=40, min_context=0, labels=labels, unit=unit)
    sparse = SparseAttention(policy, calibration)
    whole = logits(sparse)
    torch.testing.assert_close(logits(sparse, chunk=17), whole, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(whole[60:], logits()[60:], atol=1e-3)
    torch.testing.assert_close(whole[:40], logits()[:40], rtol=1e-10, atol=1e-10)


def test_the_tail_is_what_its_words_say(calibration):
    """One decode step, one head after another, token by token."""
    policy = SparsePolicy(k=20, min_context=0, tail="mean")
    generator = torch.Generator().manual_seed(5)
    q = torch.randn(1, 4, 16, generator=generator, dtype=torch.float64)
    k, v = (torch.randn(60, 2, 16, generator=generator, dtype=torch.float64) for _ in "kv")
    run = GraphRun(build_graph(CONFIG), {}, slots=64, dtype=torch.float64)
    run.store(0, k.flatten(1), v.flatten(1), torch.arange(60))
    operation = next(op for op in run.module.walk() if op.name == "graph.partial")
    kvset = Kvset(0, [torch.arange(60)], 0, [60], None)
    sparse = SparseAttention(policy, calibration)
    state = sparse(run, operation, q.flatten(1), torch.tensor([0, 1]), kvset)
    heads, scale, r = calibration.layers[0], operation["scale"], policy.label_channels(16)
    rows = permuted(k, heads)
    read = select(label_scores(permuted(q, heads), rows, heads, policy, scale),
                  torch.tensor([59]), policy)  # fmt: skip
    assert 20 == read[0].sum() < 60
    for number in range(4):
        head, kv = heads[number // 2], number // 2
        query, order = q[0, number] * scale, list(head.order)
        codes = quantized_labels(rows[:, kv, :r], head, "i4")
        steps = codes.new_tensor(head.label_scales(r, "i4"))
        lost = sum((float(query[c]) * head.deviation[c]) ** 2 for c in order[r:]) / 2
        base = float(query @ query.new_tensor(head.mean)) + lost
        total, mixed = 0.0, torch.zeros(16, dtype=torch.float64)
        for j in range(60):
            if read[kv, 0, j]:
                weight, value = math.exp(float(query @ k[j, kv])), v[j, kv]
            else:
                weight = math.exp(base + float((query[order[:r]] * steps) @ codes[j]))
                value = v[:48, kv].mean(0)  # whole pages of 16
            total, mixed = total + weight, mixed + weight * value
        found = state.accumulator[0, number] / state.sum[0, number]
        torch.testing.assert_close(found, mixed / total, rtol=1e-9, atol=1e-9)


def test_a_sliding_window_bounds_what_is_selected(calibration):
    from dataclasses import replace

    config = replace(CONFIG, windows=(50, 0), architecture="MistralForCausalLM")
    sparse = SparseAttention(SparsePolicy(k=30, min_context=0), calibration)
    found = logits(sparse, config)
    torch.testing.assert_close(found[:30], logits(None, config)[:30], rtol=1e-10, atol=1e-10)
    assert sparse.reads[0].read == sparse.reads[1].read - sum(
        min(n, 30) - min(n, 50, 30) for n in range(1, 151)
    )


def plain_select(scores, at, policy, page):
    """The words of ir.sparse.policy as loops over one row of scores."""
    context = at + 1
    if policy.reads_whole(context):
        return set(range(context))
    forced = {j for j in range(context) if j < policy.sinks or j > at - policy.recent}
    size = page if policy.unit == "page" else 1
    forced = {j for j in range(context) if any(f // size == j // size for f in forced)}
    units: dict[int, list[int]] = {}
    for j in set(range(context)) - forced:
        units.setdefault(j // size, []).append(j)
    best = {unit: max(scores[j] for j in tokens) for unit, tokens in units.items()}
    order = sorted(best, key=lambda unit: (-best[unit], unit))
    read, mass, total = set(forced), 0.0, sum(math.exp(best[u] - best[order[0]]) for u in order)
    for unit in order:
        weight = math.exp(best[unit] - best[order[0]])
        if len(read) >= policy.budget(context):
            break
        if policy.threshold and weight < policy.threshold:
            break
        if policy.top_p and mass >= policy.top_p * total:
            break
        read |= set(units[unit])
        mass += weight
    return read


@pytest.mark.parametrize("seed", range(40))
def test_selection_is_what_the_words_say(seed):
    rng = random.Random(seed)
    kind = rng.choice(["k", "ratio", "threshold", "top_p"])
    amount = rng.randint(12, 60) if kind == "k" else rng.choice([1 / 16, 1 / 5, 0.5, 0.9])
    cap = rng.choice([1.0, 1 / 4]) if kind in ("threshold", "top_p") else 1.0
    policy = SparsePolicy(**{kind: amount}, cap=cap, unit=rng.choice(["token", "page"]),
                          sinks=rng.randint(0, 6), recent=rng.randint(1, 6),
                          min_context=rng.choice([0, 30]))  # fmt: skip
    tokens, rows, page = rng.randint(30, 130), 3, rng.choice([4, 16])
    scores = torch.randn(2, rows, tokens, dtype=torch.float64,
                         generator=torch.Generator().manual_seed(seed)) * 2  # fmt: skip
    scores = torch.round(scores * 4) / 4  # ties
    at = torch.arange(tokens - rows, tokens)
    found = select(scores, at, policy, page)
    for head in range(2):
        for row in range(rows):
            wanted = plain_select(scores[head, row].tolist(), int(at[row]), policy, page)
            assert set(found[head, row].nonzero().flatten().tolist()) == wanted
            assert int(at[row]) in wanted


def test_labels_round_within_half_a_level_and_clip():
    head = HeadChannels((2, 0, 1), (0.5, -1.0, 0.0), (1.0, 1.0, 0.1), (3.0, 2.0, 0.2))
    k = torch.tensor([[0.05, 0.5, 9.0], [-0.2, -2.0, -1.0]])  # in the order 2, 0, 1
    steps = torch.tensor([0.2, 2.5, 2.0]) / 7
    codes = quantized_labels(k, head, "i4")
    assert codes.tolist() == [[2, 0, 7], [-7, -7, 0]]
    inside = (k - torch.tensor([0.0, 0.5, -1.0]))[1]
    assert ((codes[1] * steps - inside).abs() <= steps / 2 + 1e-6).tolist() == [True, True, True]


@pytest.mark.parametrize("labels", ["bf16", "i8"])
def test_scores_of_all_channels_are_those_of_centred_keys(labels):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(3, 4, 16, generator=generator)
    k = torch.randn(20, 2, 16, generator=generator)
    mean, far = tuple(k.mean((0, 1)).tolist()), (4.0,) * 16
    heads = [HeadChannels(tuple(range(16)), mean, (1.0,) * 16, far)] * 2
    policy = SparsePolicy(k=20, channels=16, labels=labels)
    exact = torch.einsum("tkgc,skc->kgts", q.unflatten(1, (2, 2)), k - k.mean((0, 1))).amax(1)
    found = label_scores(q, k, heads, policy, 1.0)
    torch.testing.assert_close(found, exact, atol=0.25, rtol=0)


def test_statistics_cover_all_blocks():
    """The published code keeps the last block of qk: this one must differ from that."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(60, 4, 8, generator=generator, dtype=torch.float64)
    k = torch.randn(60, 2, 8, generator=generator, dtype=torch.float64)
    q[:30, :, 5] *= 50  # only the first block sees that channel 5 is large
    observer, last = AttentionObserver(), AttentionObserver()
    for at in (0, 30):
        observer.add(0, q[at : at + 30], k[at : at + 30])
    last.add(0, q[30:], k[30:])
    for statistic in ("centred", "qk", "q"):
        origin = Provenance(statistic=statistic)
        assert observer.chosen(origin).head(0, 0).order[0] == 5
        assert last.chosen(origin).head(0, 0).order[0] != 5
    made = observer.chosen(Provenance())
    assert made.provenance.tokens == 60
    mean, spread = k.mean(0)[1], k.std(0, correction=0)[1]
    torch.testing.assert_close(torch.tensor(made.head(0, 1).mean).double(), mean)
    torch.testing.assert_close(torch.tensor(made.head(0, 1).deviation).double(), spread)
    peak = (k[:, 1] - mean).abs().amax(0)
    torch.testing.assert_close(torch.tensor(made.head(0, 1).peak).double(), peak)


@pytest.mark.parametrize("statistic", ["centred", "qk", "q"])
@pytest.mark.parametrize("head", [2, 3])
def test_every_query_head_of_a_group_has_a_say_and_others_have_none(statistic, head):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(60, 4, 8, generator=generator, dtype=torch.float64)
    k = torch.randn(60, 2, 8, generator=generator, dtype=torch.float64)
    plain, observer = AttentionObserver(), AttentionObserver()
    plain.add(0, q, k)
    before = plain.chosen(Provenance(statistic=statistic))
    last = before.head(0, 1).order[-1]
    q[:, head, last] *= 50
    observer.add(0, q, k)
    after = observer.chosen(Provenance(statistic=statistic))
    assert after.head(0, 1).order[0] == last
    assert after.head(0, 0).order == before.head(0, 0).order


def test_a_channel_that_never_moves_is_last_however_large():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.rand(50, 2, 8, generator=generator), torch.rand(50, 1, 8, generator=generator)
    k[..., 3] = 100.0
    observer = AttentionObserver()
    observer.add(0, q, k)
    assert observer.chosen(Provenance(statistic="qk")).head(0, 0).order[0] == 3
    assert observer.chosen(Provenance(statistic="centred")).head(0, 0).order[-1] == 3
