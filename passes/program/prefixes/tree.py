"""The prefix tree of a whole program and batch, built before anything runs.

Every model call of every row and branch sends a prompt; the tree joins them where they begin
alike, at single tokens. What is not known yet (what a model will say, an argument that was not
given) is one element, which all prompts that hold it share. See `runtime/schedule/row_costs.py`
for the same count of the calls that a run has made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from ....ir.core import Module, thaw
from ....ir.display.view import Shown, View
from ....ir.source import Span
from ....ir.vocabulary import Tokenizer
from .calls import Call
from .values import Element, Text, Unknown
from .walk import PlanWalk


@dataclass(eq=False)
class PrefixNode:
    """A stretch of elements from position `start`; `readers` calls have it in their prompts."""

    start: int
    elements: tuple[Element, ...]
    text: Text = field(default_factory=Text, repr=False)
    """A text that has it, which knows the sources."""
    readers: int = 0
    sure: bool = False
    """Some call that certainly happens computes it."""
    rows: set[int] = field(default_factory=set)
    children: dict[Element, PrefixNode] = field(default_factory=dict)

    @property
    def span(self) -> Span | None:
        """Where its first element comes from."""
        return self.text.source(self.start).span if self.elements else None

    @property
    def end(self) -> int:
        """The position after its last element."""
        return self.start + len(self.elements)

    @property
    def tokens(self) -> int:
        """How many of its elements are known tokens."""
        return _known(self.elements)

    def walk(self) -> Iterator[PrefixNode]:
        """Yield the node and all below it, parents first."""
        todo: list[PrefixNode] = [self]
        while todo:
            node = todo.pop()
            yield node
            todo += reversed(node.children.values())


@dataclass
class Counts:
    """Of the calls that certainly happen: known tokens sent, and those found in the tree before.

    `generated` counts how often a call reads again what a model said before, or a value that is
    not known yet: hits, too, of lengths that only the run can tell. `maybe` calls are not counted.
    """

    calls: int = 0
    maybe: int = 0
    sent: int = 0
    hits: int = 0
    generated: int = 0


@dataclass
class _Step:
    """A node on the way to where the latest call ended."""

    node: PrefixNode
    known: int
    """Known tokens up to the node's end."""
    reads: int = 0
    """Calls that end at the node or below it, and are not yet among its readers."""


class PrefixTree(Shown):
    """Prompts as a radix tree over elements, with counts; `add` takes calls in program order.

    A call goes on from where it parts with the one before, so a row's calls on one stream take
    time in what each adds. Readers are handed up as the way is left; `root` hands up all of them.
    """

    def __init__(self, name: str = "", tokenizer: Tokenizer | None = None) -> None:
        self.name = name
        self._root = PrefixNode(0, ())
        self._way = [_Step(self._root, 0)]
        self._latest: tuple[Element, ...] = ()
        self._row = -1
        self.counts = Counts()
        self.rows = 0
        self.calls: list[Call] = []
        self.tokenizer = tokenizer

    def __str__(self) -> str:
        from .text import print_tree

        return print_tree(self)

    def view(self) -> View:
        """Return the counts and the picture of what is shared."""
        from .text import tree_view

        return tree_view(self)

    @property
    def root(self) -> PrefixNode:
        """The node above all others."""
        self._leave(0)
        self._root.readers += self._way[0].reads
        self._way[0].reads = 0
        return self._root

    @property
    def unique(self) -> int:
        """Known tokens that certain calls send, each counted once: it is computed once."""
        return sum(node.tokens for node in self._root.walk() if node.sure)

    def add(self, call: Call) -> int:
        """Add a call's prompt; return how many of its known tokens were in the tree already."""
        prompt, counts = call.prompt.elements, self.counts
        shared = self._insert(call, prompt, reads=True)
        sent, found = self._way[-1].known, min(shared, call.first_logits)
        hits = sent - _known(prompt[found:])
        if call.left is not None:
            self._insert(call, call.left.elements, reads=False)
        self.calls.append(call)
        if not call.sure:
            counts.maybe += 1
            return hits
        counts.calls += 1
        counts.sent += sent
        counts.hits += hits
        counts.generated += found - hits
        return hits

    def _insert(self, call: Call, elements: tuple[Element, ...], reads: bool) -> int:
        """Put elements in, and return how many of them were there."""
        # All nodes on the way have the row of the latest call.
        self._leave(_shared(self._latest, elements, 0) if call.row == self._row else 0)
        self._latest, self._row = elements, call.row
        known = self._make_sure() if call.sure else None
        at = self._way[-1].node.end
        while at < len(elements):
            node = self._way[-1].node
            child = node.children.get(elements[at])
            if child is None:
                known = at if known is None else known
                child = self._leaf(node, call, elements)
            else:
                shared = _shared(child.elements, elements, at)
                if shared < len(child.elements):
                    child = _split(node, child, shared)
                if known is None and call.sure and not child.sure:
                    known = at
            child.sure |= call.sure
            child.rows.add(call.row)
            self._way.append(_Step(child, self._way[-1].known + child.tokens))
            at = child.end
        self._way[-1].reads += reads
        return len(elements) if known is None else known

    def _leave(self, end: int) -> None:
        """Go back to the last node on the way that ends at `end` or before."""
        way = self._way
        while len(way) > 1 and way[-1].node.end > end:
            left = way.pop()
            left.node.readers += left.reads
            way[-1].reads += left.reads

    def _make_sure(self) -> int | None:
        """Make all nodes on the way sure; return where the first starts that was not, if any."""
        known = None
        for step in reversed(self._way):
            if step.node.sure or step.node is self._root:  # what is above a sure one is sure
                break
            step.node.sure, known = True, step.node.start
        return known

    def _leaf(self, parent: PrefixNode, call: Call, elements: tuple[Element, ...]) -> PrefixNode:
        text = call.prompt if len(call.prompt.elements) > parent.end else call.left
        assert text is not None
        leaf = PrefixNode(parent.end, elements[parent.end :], text)
        parent.children[elements[parent.end]] = leaf
        return leaf


def _known(elements: tuple[Element, ...]) -> int:
    """Return how many elements are tokens that are known."""
    return len(elements) - list(map(type, elements)).count(Unknown)


def _shared(left: tuple[Element, ...], elements: tuple[Element, ...], at: int) -> int:
    """Return how many elements `left` shares with those from `at` on."""
    size = min(len(left), len(elements) - at)
    if left[:size] == elements[at : at + size]:
        return size
    same = 0
    while size - same > 1:
        middle = (same + size) // 2
        if left[same:middle] == elements[at + same : at + middle]:
            same = middle
        else:
            size = middle
    return same


def _split(parent: PrefixNode, node: PrefixNode, at: int) -> PrefixNode:
    """Cut a node after `at` elements; return the new upper one."""
    upper = PrefixNode(
        node.start, node.elements[:at], node.text, node.readers, node.sure,
        set(node.rows),
    )  # fmt: skip
    parent.children[upper.elements[0]] = upper
    node.start, node.elements = upper.end, node.elements[at:]
    upper.children[node.elements[0]] = node
    return upper


class PlanPrefixes:
    """What a plan's program sends, before it runs: as a tree of rows, and of one row as ids."""

    def __init__(self, plan: Module, name: str, tokenizer: Tokenizer) -> None:
        self._plan, self._name, self._tokenizer = plan, name, tokenizer
        self._walk = PlanWalk(plan, name, tokenizer)
        self._defaults = {
            parameter["name"]: thaw(parameter["default"])
            for parameter in plan.symbol(name)["parameters"]
            if "default" in dict(parameter.items)
        }

    def tree(self, rows: Sequence[Mapping[str, Any]] = ()) -> PrefixTree:
        """Return the tree over rows of arguments; for none, that of one row of unknown ones."""
        walk = PlanWalk(self._plan, self._name, self._tokenizer)
        tree = PrefixTree(self._name, self._tokenizer)
        for number, arguments in enumerate(rows or (None,)):
            known = {} if arguments is None else self._defaults | dict(arguments)
            for call in walk.row(number, known):
                tree.add(call)
            tree.rows += 1
        return tree

    def known(self, arguments: Mapping[str, Any]) -> list[tuple[int, ...]]:
        """Return, in the order of a row's calls, how their prompts begin: the known ids."""
        found: dict[tuple[int, ...], None] = {}
        for call in self._walk.beginning(self._defaults | dict(arguments)):
            elements = call.prompt.elements
            kinds = list(map(type, elements))
            count = kinds.index(Unknown) if Unknown in kinds else len(kinds)
            found[cast("tuple[int, ...]", elements[:count])] = None
        return list(found)


def prefix_tree(
    plan: Module, name: str, tokenizer: Tokenizer, rows: Sequence[Mapping[str, Any]] = ()
) -> PrefixTree:
    """Return the tree of a plan's program over rows of arguments; of one unknown row for none."""
    return PlanPrefixes(plan, name, tokenizer).tree(rows)
