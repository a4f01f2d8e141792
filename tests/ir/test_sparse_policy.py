"""Policies of sparse attention: their text, their budgets, and what they refuse."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weft.ir.sparse.policy import BadPolicy, SparsePolicy, parse_policies, parse_policy

SHARES = st.one_of(st.integers(1, 64).map(lambda n: 1 / n), st.floats(0.001, 1.0))


@st.composite
def policies(draw):
    sinks, recent = draw(st.integers(0, 9)), draw(st.integers(1, 40))
    kind = draw(st.sampled_from(["k", "ratio", "threshold", "top_p"]))
    fewest = sinks + recent
    amount = draw(st.integers(fewest, 5000)) if kind == "k" else draw(SHARES)
    cap = {"cap": draw(SHARES)} if kind in ("threshold", "top_p") else {}
    unit, labels = draw(st.sampled_from(["token", "page"])), draw(st.sampled_from(["bf16", "i8"]))
    dense, whole = draw(st.sets(st.integers(0, 9))), draw(st.integers(0, 999))
    return SparsePolicy(
        **{kind: amount}, **cap, sinks=sinks, recent=recent, unit=unit, labels=labels,
        channels=draw(st.integers(0, 64)), tail=draw(st.sampled_from(["none", "mean"])),
        dense=tuple(sorted(dense)), min_context=whole,
    )  # fmt: skip


@given(policies())
def test_the_text_reads_back(policy):
    assert parse_policy(str(policy)) == policy


@given(policies(), st.integers(1, 100_000))
def test_a_budget_holds_what_is_forced_and_no_more_than_the_context(policy, context):
    budget = policy.budget(context)
    assert min(context, policy.sinks + policy.recent) <= budget <= context
    if context <= policy.min_context:
        assert budget == context


def test_a_list_splits_at_outer_commas():
    found = parse_policies("dense, sparse(ratio=1/16, dense=[0, 1]), sparse(k=64)")
    assert found == [None, SparsePolicy(ratio=1 / 16, dense=(0, 1)), SparsePolicy(k=64)]


def test_a_context_shorter_than_k_is_read_whole():
    assert SparsePolicy(k=512).budget(300) == 300


@pytest.mark.parametrize(
    "policy", [SparsePolicy(ratio=1 / 16), SparsePolicy(top_p=0.9, cap=1 / 16)]
)
def test_shares_of_a_context_are_rounded_up(policy):
    assert [policy.budget(n) for n in (992, 993, 1000, 1008, 1009)] == [62, 63, 63, 63, 64]


@pytest.mark.parametrize("policy, longest", [
    (SparsePolicy(k=64, min_context=100), 100), (SparsePolicy(k=64, min_context=0), 64),
    (SparsePolicy(ratio=1 / 2, min_context=0), 20),
    (SparsePolicy(top_p=0.9, min_context=100), 100), (SparsePolicy(top_p=0.9, min_context=0), 20),
])  # fmt: skip
def test_the_longest_context_that_is_read_whole(policy, longest):
    """That of `min_context`, of what is forced, or of what is wanted."""
    assert policy.reads_whole(longest) and not policy.reads_whole(longest + 1)


def test_labels_take_a_sixteenth_of_a_row_unless_told():
    for labels, channels in (("bf16", 4), ("i8", 8), ("i4", 16)):
        policy = SparsePolicy(k=64, labels=labels)
        assert (policy.label_channels(64), policy.label_bytes(64)) == (channels, 8)


@pytest.mark.parametrize(
    "text, says",
    [
        ("sparse(k=0)", "k must be above 0"),
        ("sparse(k=-3)", "k must be above 0"),
        ("sparse(ratio=0)", "ratio must be above 0"),
        ("sparse(ratio=2)", "at most 1"),
        ("sparse(ratio=nan)", "at most 1"),
        ("sparse(ratio=1/0)", "a fraction such as 1/16"),
        ("sparse(top_p=1.5)", "at most 1"),
        ("sparse(top_p=0.9, cap=0)", "cap must be above 0"),
        ("sparse(ratio=1/16, cap=1/2)", "cap belongs to threshold and top_p"),
        ("sparse(k=64, ratio=1/16)", "has k and ratio"),
        ("sparse()", "has none"),
        ("sparse(k=5)", "less than its sinks and recent"),
        ("sparse(k=64, recent=0)", "the current token is always read"),
        ("sparse(k=64, labels=i2)", "labels is one of bf16, i8, i4"),
        ("sparse(k=64, tail=sum)", "tail is none or mean"),
        ("sparse(k=64, unit=block)", "unit is token or page"),
        ("sparse(k=many)", "a whole number"),
        ("sparse(k=64, k=65)", "given twice"),
        ("sparse(heads=64)", "names: k, ratio"),
        ("sparse(k=64, dense=0)", "a list of layers"),
        ("sparse(64)", "not name=value"),
        ("windowed(k=64)", "neither dense nor sparse"),
    ],
)
def test_nonsense_is_refused_with_the_reason(text, says):
    with pytest.raises(BadPolicy) as caught:
        parse_policy(text)
    assert says in caught.value.message
    assert "sparse(ratio=1/16)" in caught.value.hint_text
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_model_with_too_few_channels_or_layers_is_told():
    with pytest.raises(BadPolicy, match="a head has 64"):
        SparsePolicy(k=64, channels=65).label_channels(64)
    with pytest.raises(BadPolicy, match="fill no whole bytes"):
        SparsePolicy(k=64, channels=3).label_channels(64)
    with pytest.raises(BadPolicy, match="no layer 8 among 8"):
        SparsePolicy(k=64, dense=(0, 8)).check_layers(8)
