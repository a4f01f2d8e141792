"""The prefix tree before a run: exact where all is known; prefixes of forks, and their checker."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.frontend.lowering.lower import lower
from weft.frontend.semantics.checker import check
from weft.frontend.text.parser import parse_text
from weft.passes.manager import Context, run_passes
from weft.passes.pipeline import LOWERING, PROGRAM_PASSES
from weft.passes.program.prefixes.boundaries import Boundaries, common
from weft.passes.program.prefixes.calls import stretches
from weft.passes.program.prefixes.text import draw_tree, print_tree, reason, tree_picture
from weft.passes.program.prefixes.tree import PrefixNode, PrefixTree, prefix_tree
from weft.passes.program.prefixes.values import Text
from weft.runtime.simulator import ToyTokenizer
from weft.tests.each_time import examples
from weft.tests.passes.byte_texts import ByteTokenizer, MarkerChat

JUDGE = """program judge(essay: str, sides: list[str]) -> str:
    system "You judge."
    user "{essay}"
    fork side in sides as reviews:
        user "Judge only its {side}."
        assistant gen review(max_tokens=4)
        yield review
    user "Done."
    assistant select grade from ["xyA", "xyB", "xz", "w"]
    return grade
"""


def plan_of(text: str, tokenizer=None):
    file = parse_text(text)
    check(file)
    context = Context(tokenizer=tokenizer or ByteTokenizer(), chat=MarkerChat())
    passes = (*PROGRAM_PASSES[:4], *LOWERING)
    return run_passes(passes, lower(file), context)[0], context


def test_rows_branches_and_options_are_one_tree():
    plan, context = plan_of(JUDGE)
    rows = [{"essay": "one", "sides": ["a", "b"]}, {"essay": "two", "sides": ["a"]}]
    tree = prefix_tree(plan, "judge", context.tokenizer, rows)
    # A row: one call a branch, then the select: its prompt, `xy` (after `x`), no leaf.
    assert [(call.row, call.name) for call in tree.calls] == [
        (0, "review"), (0, "review"), (0, "grade"), (0, "grade"), (0, "grade"),
        (1, "review"), (1, "grade"), (1, "grade"), (1, "grade"),
    ]  # fmt: skip
    assert tree.counts.maybe == 0 and tree.counts.generated == 0
    prompts = [call.prompt.elements for call in tree.calls]
    computed = _computed(tree.calls)
    assert tree.counts.sent == sum(map(len, prompts))
    assert tree.counts.hits == tree.counts.sent - computed
    assert tree.unique == computed
    first = next(iter(tree.root.children.values()))
    assert first.readers == len(tree.calls) and first.rows == {0, 1}
    text = print_tree(tree)
    assert text.startswith("prefix.tree program = @judge, rows = 2, calls = 9, maybe = 0")
    assert "// not shared from here on" in text


def _computed(calls) -> int:
    """Count, from plain sets of prefixes, the positions that calls compute one after another."""
    known, computed = set(), 0
    for call in calls:
        elements = call.prompt.elements
        ends = {elements[: end + 1] for end in range(len(elements))}
        again = {elements[: end + 1] for end in range(call.first_logits, len(elements))}
        computed += len((ends - known) | again)
        known |= ends
        if call.left is not None:
            known |= {call.left.elements[: end + 1] for end in range(len(call.left.elements))}
    return computed


ROWS_BEGIN = {
    "a round goes on with the text": ("""program p(xs: list[str]) -> str:
    "xa"
    for x in xs:
        "{x}"
    gen y(max_tokens=1)
    return y
""", [{"xs": ["b"]}, {"xs": ["c"]}]),
    "one row returns before the second text": ("""program p(xs: list[str]) -> str:
    "xa"
    if xs == []:
        gen x(max_tokens=1)
        return x
    "d"
    gen y(max_tokens=1)
    return y
""", [{"xs": []}, {"xs": ["c"]}]),
    "a space goes to the gen": ("""program p(xs: list[str]) -> str:
    "xa "
    gen y(max_tokens=1)
    return y
""", [{"xs": []}, {"xs": ["c"]}]),
}  # fmt: skip


@pytest.mark.parametrize("case", ROWS_BEGIN)
def test_rows_begin_with_as_many_tokens_as_their_program_says(case):
    text, rows = ROWS_BEGIN[case]
    context = Context(tokenizer=ToyTokenizer(["ab"]), chat=MarkerChat())
    plan, records = run_passes((*PROGRAM_PASSES, *LOWERING), lower(parse_text(text)), context)
    shared = next(one.after for one in records if one.name == "prefix-sharing")
    calls = prefix_tree(plan, "p", context.tokenizer, rows).calls
    assert 0 < shared.symbol("p")["prefix"]["tokens"] <= common([c.prompt.elements for c in calls])


def test_why_prompts_part_is_said_with_the_line():
    plan, context = plan_of(JUDGE)
    rows = [{"essay": "one", "sides": ["a"]}, {"essay": "two", "sides": ["a"]}]
    tree = prefix_tree(plan, "judge", context.tokenizer, rows)
    parting = next(node for node in tree.root.walk() if len(node.children) > 1)
    why = reason(list(parting.children.values()), context.tokenizer)
    assert why.startswith("2 ways: 'one") and why.endswith("(line 3)")
    assert why in draw_tree(tree) and why in str(tree)


def test_unknown_values_are_shared_by_those_who_hold_the_same():
    plan, context = plan_of(JUDGE)
    tree = prefix_tree(plan, "judge", context.tokenizer)
    assert [call.sure for call in tree.calls] == [False, True, True, True]
    assert tree.counts.generated == 2  # the essay, read again by the options
    assert tree.unique + tree.counts.hits <= tree.counts.sent  # what may happen is in neither


def test_a_token_over_the_border_is_not_split():
    """`a` and what follows may be the token `ab`; and a token `s a` may begin before the space."""
    assert Boundaries(ByteTokenizer()).certain("its ") == 3
    assert Boundaries(ToyTokenizer(["s a"])).certain("its ") == 0
    assert Boundaries(ToyTokenizer(["s a"])).certain("is it ") == 5


@settings(max_examples=examples(300), deadline=None, derandomize=True)
@given(
    words=st.lists(st.text("ab .", min_size=1, max_size=4), max_size=6),
    text=st.text("ab .", max_size=12),
    rest=st.text("ab .", max_size=6),
)
def test_no_continuation_changes_certain_tokens(words, text, rest):
    tokenizer = ToyTokenizer(words)
    certain = tokenizer.encode(text[: Boundaries(tokenizer).certain(text)])
    assert tokenizer.encode(text + rest)[: len(certain)] == certain


@settings(max_examples=examples(200), deadline=None, derandomize=True)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=6))
def test_a_trie_computes_each_inner_node_once(options):
    made = [tuple(ids[start:]) for start, ids in stretches(options)]
    inner = {tuple(ids[:size]) for ids in options for size in range(len(ids))}
    assert sum(map(len, made)) == len(inner) - 1


def test_loops_of_unknown_length_know_only_what_every_round_is_given():
    text = """program grow(topics: list[str]) -> str:
    let n = 0
    user "Go."
    for topic in topics:
        user "Next."
        fork 2 as parts:
            user "Round {n} now."
            assistant gen part(max_tokens=4)
            yield part
        n += 1
    return "done"
"""
    plan, context = plan_of(text)
    calls = prefix_tree(plan, "grow", context.tokenizer).calls
    assert [call.name for call in calls] == ["part", "part"]
    for call in calls:
        *known, said, _, _ = call.prompt.elements
        assert context.tokenizer.decode(known[-5:]) == "Round"
        assert "one of several texts" in said.name


RETURNS_EARLY = """program inner(a: bool) -> str:
    if a:
        return "early"
    return "late"

program nested(a: bool, b: bool) -> str:
    if a:
        if b:
            return "early"
    "y"
    gen y(max_tokens=2)
    return y

program looped(xs: list[str]) -> str:
    for x in xs:
        if x == "a":
            return "early"
    "y"
    gen y(max_tokens=2)
    return y

program called(a: bool) -> str:
    let v = call inner(a)
    "{v}|"
    gen y(max_tokens=2)
    return y

program inlined(a: bool) -> str:
    let v = inline inner(a)
    "{v}|"
    gen y(max_tokens=2)
    return y
"""


@pytest.mark.parametrize("name", ["nested", "looped", "called", "inlined"])
def test_what_may_return_early_leaves_nothing_sure_behind_it(name):
    """What follows in the same program may not run; a caller goes on, with one of two values."""
    plan, context = plan_of(RETURNS_EARLY)
    (call,) = prefix_tree(plan, name, context.tokenizer).calls
    assert call.sure == (name in {"called", "inlined"})
    said = "".join(str(each) for each in call.prompt.elements if not isinstance(each, int))
    assert said == ("{one of several texts}|" if call.sure else "")


def test_a_deep_tree_is_counted_and_drawn():
    """A conversation of many turns is as deep."""
    text, tree = Text().plus([1], "a turn", None), PrefixTree("turns")
    node, depth = tree.root, 1200
    for _ in range(depth):
        node.children[1] = node = PrefixNode(0, (1,), text, sure=True)
    assert tree.unique == depth and str(tree).count("prefix.node") == depth
    assert draw_tree(tree).count("1 tokens") == depth
    assert tree_picture(tree).svg().count("<title>") == depth


def test_a_row_ends_at_a_fork_that_no_run_makes():
    plan, context = plan_of("""program wide(count: int) -> str:
    "x"
    gen first(max_tokens=2)
    fork count as all:
        gen said(max_tokens=2)
        yield said
    return first
""")
    rows = [{"count": 10**9}, {"count": -1}, {"count": 2}]
    calls = prefix_tree(plan, "wide", context.tokenizer, rows).calls
    assert [(call.row, call.name) for call in calls] == [
        (0, "first"), (1, "first"), (2, "first"), (2, "said"), (2, "said"),
    ]  # fmt: skip


@pytest.mark.parametrize("around", ['if first == "a":', "fork len(first) as outer:"])
def test_a_row_goes_on_behind_a_fork_that_it_may_not_come_to(around):
    end = "        yield all\n" if "outer" in around else ""
    plan, context = plan_of(f"""program wide(count: int) -> str:
    "x"
    gen first(max_tokens=2)
    {around}
        fork count as all:
            gen said(max_tokens=2)
            yield said
{end}    gen after(max_tokens=2)
    return after
""")
    rows = [{"count": -1}, {"count": 1}]
    calls = prefix_tree(plan, "wide", context.tokenizer, rows).calls
    assert [(call.row, call.name, call.sure) for call in calls] == [
        (0, "first", True), (0, "after", True),
        (1, "first", True), (1, "said", False), (1, "after", True),
    ]  # fmt: skip


@settings(max_examples=examples(100), deadline=None, derandomize=True)
@given(st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=5))
def test_the_common_prefix_is_the_longest(lists):
    size = common(lists)
    assert all(ids[:size] == lists[0][:size] for ids in lists)
    assert size == min(map(len, lists)) or len({tuple(ids[: size + 1]) for ids in lists}) > 1
    assert PrefixTree().unique == 0
