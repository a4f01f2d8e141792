"""The prefix tree as text: one line a node, with its readers and why prompts part there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
    lines = [line for child in tree.root.children.values() for line in _node(child, tree, 1)]
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
    children = list(tree.root.children.values())
    lines += [line for child in children for line in _drawn(child, tree, "  ")]
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
    roots = tuple(_stretch(child, tree.tokenizer, most) for child in tree.root.children.values())
    return StretchTree(f"prefixes of {tree.name}", roots)


def _stretch(node: PrefixNode, tokenizer: Tokenizer | None, most: int) -> Stretch:
    children = list(node.children.values())
    shown = [_stretch(child, tokenizer, most) for child in children[:most]]
    if rest := children[most:]:
        tokens = sum(below.tokens for child in rest for below in child.walk())
        shown.append(Stretch(node.end, 0, f"{len(rest)} more ways, {tokens} tokens", len(rest)))
    text, line = show(node.elements, tokenizer, 80), node.span.line if node.span else 0
    return Stretch(
        node.start, len(node.elements), text, node.readers, tuple(shown),
        key=f"line-{line}" if line else "",
    )  # fmt: skip


def _drawn(node: PrefixNode, tree: PrefixTree, indent: str) -> Iterator[str]:
    line = f", line {node.span.line}" if node.span is not None else ""
    calls = f"{node.readers} call{'s' * (node.readers != 1)}"
    rows = f" of {len(node.rows)} rows" if len(node.rows) > 1 else ""
    text = show(node.elements, tree.tokenizer)
    yield f'{indent}{node.tokens} tokens, read by {calls}{rows}{line}: "{text}"'
    children = list(node.children.values())
    if len(children) > 1:
        yield f"{indent}  not shared further: {reason(children, tree.tokenizer)}"
    for child in children[:MOST_CHILDREN]:
        yield from _drawn(child, tree, indent + "  ")
    if len(children) > MOST_CHILDREN:
        yield f"{indent}  and {len(children) - MOST_CHILDREN} more"


def _node(node: PrefixNode, tree: PrefixTree, depth: int) -> Iterator[str]:
    indent = "  " * depth
    text = show(node.elements, tree.tokenizer)
    facts = f"tokens = {node.tokens}, readers = {node.readers}, rows = {len(node.rows)}"
    line = f", line = {node.span.line}" if node.span is not None else ""
    opened = " {" if node.children else ""
    yield f'{indent}prefix.node at = {node.start}, {facts}{line}, text = "{text}"{opened}'
    if not node.children:
        return
    children = list(node.children.values())
    if len(children) > 1:
        yield f"{indent}  // not shared from here on, {reason(children, tree.tokenizer)}"
    for child in children[:MOST_CHILDREN]:
        yield from _node(child, tree, depth + 1)
    if len(children) > MOST_CHILDREN:
        rest = children[MOST_CHILDREN:]
        tokens = sum(node.tokens for child in rest for node in child.walk())
        yield f"{indent}  // {len(rest)} more nodes of {tokens} tokens"
    yield f"{indent}}}"


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
