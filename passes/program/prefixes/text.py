"""The prefix tree as text: one line a node, with its readers and why prompts part there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ....ir.display.tree import Stretch, StretchTree
from ....ir.display.view import Facts, Figure, View
from ....ir.vocabulary import Tokenizer
from .tree import PrefixNode, PrefixTree
from .values import Element, Unknown

MOST_CHILDREN = 6
MOST_TEXT = 48


def print_tree(tree: PrefixTree) -> str:
    """Return the tree in the form of the IR: a table of counts, then nested nodes in braces."""
    counts, spans = tree.counts, tree.counts.generated
    head = (
        f"prefix.tree program = @{tree.name}, rows = {tree.rows}, calls = {counts.calls}, "
        f"maybe = {counts.maybe}, sent = {counts.sent}, unique = {tree.unique}, "
        f"hits = {counts.hits}, generated = {spans} {{"
    )
    lines = _lines(tree, _printed, 1)
    return "\n".join([head, *lines, "}"]) + "\n"


def draw_tree(tree: PrefixTree) -> str:
    """Return the tree for reading: what is shared by how many, and where prompts part, and why."""
    counts, share = tree.counts, 0.0
    if counts.sent:
        share = 100 * counts.hits / counts.sent
    lines = [
        f"prefixes of {tree.name}, {tree.rows} row{'s' * (tree.rows != 1)}: {counts.calls} calls "
        f"that certainly happen and {counts.maybe} that may",
        f"  {counts.sent} known tokens sent, {counts.hits} of them hits ({share:.1f} %), and "
        f"{counts.generated} times a text read again that only the run can tell",
    ]
    lines += _lines(tree, _drawn, 1)
    return "\n".join(lines)


def tree_view(tree: PrefixTree) -> View:
    """Return the tree to look at: its counts, and its stretches as bars."""
    counts, share = tree.counts, 0.0
    if counts.sent:
        share = counts.hits / counts.sent
    facts = (
        ("calls", f"{counts.calls} certain, {counts.maybe} possible"),
        ("known tokens sent", f"{counts.sent:,}"),
        ("computed once", f"{tree.unique:,}"),
        ("prefix hits", f"{counts.hits:,} ({share:.0%})"),
    )
    rows = f", {tree.rows} row{'s' * (tree.rows != 1)}"
    return View("prefix tree", f"@{tree.name}{rows}", (Facts(facts), Figure(tree_picture(tree))))


def tree_picture(tree: PrefixTree, most: int = MOST_CHILDREN) -> StretchTree:
    """Return the tree as bars; of more than `most` children of a node the rest are one bar."""
    stretches: dict[int, Stretch] = {}
    nodes = [tree.root]
    for node in nodes:
        nodes += [*node.children.values()][:most]
    for node in reversed(nodes):  # what is below a node comes before it
        below = [stretches[id(child)] for child in [*node.children.values()][:most]]
        stretches[id(node)] = _stretch(node, below, tree.tokenizer, most)
    return StretchTree(f"prefixes of {tree.name}", stretches[id(tree.root)].children)


def _stretch(
    node: PrefixNode, shown: list[Stretch], tokenizer: Tokenizer | None, most: int
) -> Stretch:
    if rest := list(node.children.values())[most:]:
        tokens = sum(below.tokens for child in rest for below in child.walk())
        more = Stretch(node.end, 0, f"{len(rest)} more ways, {tokens} tokens", len(rest))
        shown = [*shown, more]
    text, line = show(node.elements, tokenizer, 80), node.span.line if node.span else 0
    return Stretch(
        node.start, len(node.elements), text, node.readers, tuple(shown),
        key=f"line-{line}" if line else "",
    )  # fmt: skip


Lines = tuple[list[str], list[str]]
"""What stands before a node's children, and behind them."""


def _lines(
    tree: PrefixTree, of: Callable[[PrefixNode, PrefixTree, str], Lines], depth: int
) -> list[str]:
    """Return the lines of all nodes, each with those of its first children between its own."""
    lines: list[str] = []
    todo: list[tuple[PrefixNode | str, int]]
    todo = [(child, depth) for child in reversed(tree.root.children.values())]
    while todo:
        node, depth = todo.pop()
        if isinstance(node, str):
            lines.append(node)
            continue
        before, behind = of(node, tree, "  " * depth)
        lines += before
        todo += [(line, depth) for line in reversed(behind)]
        shown = list(node.children.values())[:MOST_CHILDREN]
        todo += [(child, depth + 1) for child in reversed(shown)]
    return lines


def _drawn(node: PrefixNode, tree: PrefixTree, indent: str) -> Lines:
    line = f", line {node.span.line}" if node.span is not None else ""
    calls = f"{node.readers} call{'s' * (node.readers != 1)}"
    rows = f" of {len(node.rows)} rows" if len(node.rows) > 1 else ""
    text = show(node.elements, tree.tokenizer)
    before = [f'{indent}{node.tokens} tokens, read by {calls}{rows}{line}: "{text}"']
    children = list(node.children.values())
    if len(children) > 1:
        before.append(f"{indent}  not shared further: {reason(children, tree.tokenizer)}")
    more = len(children) - MOST_CHILDREN
    return before, [f"{indent}  and {more} more"] if more > 0 else []


def _printed(node: PrefixNode, tree: PrefixTree, indent: str) -> Lines:
    text = show(node.elements, tree.tokenizer)
    facts = f"tokens = {node.tokens}, readers = {node.readers}, rows = {len(node.rows)}"
    line = f", line = {node.span.line}" if node.span is not None else ""
    opened = " {" if node.children else ""
    before = [f'{indent}prefix.node at = {node.start}, {facts}{line}, text = "{text}"{opened}']
    children, behind = list(node.children.values()), []
    if len(children) > 1:
        before.append(f"{indent}  // not shared from here on, {reason(children, tree.tokenizer)}")
    if rest := children[MOST_CHILDREN:]:
        tokens = sum(node.tokens for child in rest for node in child.walk())
        behind.append(f"{indent}  // {len(rest)} more nodes of {tokens} tokens")
    return before, [*behind, f"{indent}}}"] if children else []


def reason(children: Sequence[PrefixNode], tokenizer: Tokenizer | None) -> str:
    """Say why prompts part before these nodes: what they go on with, and on which lines."""
    unknown = [node for node in children if isinstance(node.elements[0], Unknown)]
    told = [show(node.elements[:4], tokenizer, 24) for node in (unknown or children)[:3]]
    more = ", ..." if len(children) > len(told) else ""
    lines = sorted({node.span.line for node in children if node.span is not None})
    where = f" (line {', '.join(map(str, lines))})" if lines else ""
    return f"{len(children)} ways: {', '.join(repr(text) for text in told)}{more}{where}"


def show(elements: Sequence[Element], tokenizer: Tokenizer | None, most: int = MOST_TEXT) -> str:
    """Return elements as a short text: special tokens as <id>, unknown ones in braces."""
    text, known = "", []
    for element in elements:
        if isinstance(element, int) and tokenizer is not None:
            if element not in tokenizer.special_ids:
                known.append(element)
                continue
            element_text = f"<{element}>"
        else:
            element_text = str(element) if not isinstance(element, int) else f"<{element}>"
        text += _decoded(known, tokenizer) + element_text
        known = []
    text += _decoded(known, tokenizer)
    text = text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    if len(text) > most:
        half = most // 2 - 2
        text = f"{text[:half]} .. {text[-half:]}"
    return text


def _decoded(ids: list[int], tokenizer: Tokenizer | None) -> str:
    return tokenizer.decode(ids) if ids and tokenizer is not None else ""
