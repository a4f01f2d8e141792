"""The prefix tree as text: one line a node, with its readers and why prompts part there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...ir.vocabulary import Tokenizer
from .prefix_tree import PrefixNode, PrefixTree, reason
from .prefix_values import Element

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
        yield f"{indent}  // not shared from here on, {reason(children)}"
    for child in children[:MOST_CHILDREN]:
        yield from _node(child, tree, depth + 1)
    if len(children) > MOST_CHILDREN:
        rest = children[MOST_CHILDREN:]
        tokens = sum(node.tokens for child in rest for node in child.walk())
        yield f"{indent}  // {len(rest)} more nodes of {tokens} tokens"
    yield f"{indent}}}"


def show(elements: Sequence[Element], tokenizer: Tokenizer | None) -> str:
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
    if len(text) > MOST_TEXT:
        half = MOST_TEXT // 2 - 2
        text = f"{text[:half]} .. {text[-half:]}"
    return text


def _decoded(ids: list[int], tokenizer: Tokenizer | None) -> str:
    return tokenizer.decode(ids) if ids and tokenizer is not None else ""
