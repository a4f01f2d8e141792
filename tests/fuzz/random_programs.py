"""Random programs: every statement of the language, nested, on names that are bound where used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

TEXTS = [
    "a", " the ", "hello", "x{arg}", "Grade: ", "\\n", "ab", "a b\\n\\n", " ", "long " * 9, "é",
    "日本 ", "{items}", "\\u00e9{{}}", ": ", "b{arg} ",
]  # fmt: skip
TYPES = [
    "int(0..20)", "bool", 'choice["a", "ab", "the end"]', 'regex "a+b?"', "int(-3..3)", "Pair",
    "list[int(0..9)](max_items=2)", 'regex "(ab|é)+ ?x"', "list[Pair](max_items=2)", "float",
    "Nest", 'choice["a\\n", "a\\n\\n", "b e\\u0301"]', "list[list[bool](max_items=1)](max_items=2)",
    'regex "(?i)[ab]{1,3}"',
]  # fmt: skip
TYPED_OPTIONS = [
    "", "", "", "temperature=1.0", 'stop="\\n"', 'stop=["a", "2"], temperature=1.0',
    "logprobs=true", 'stop=regex "[ab}]"', "temperature=1.5, top_p=0.9", "seed=5, temperature=1.0",
]  # fmt: skip
OPTIONS = [
    "", "", "", 'stop="a"', 'stop=regex "[ab] ?[a-z]"', 'stop=["b", "the"]', "temperature=1.0",
    "temperature=2.0, top_k=5", "temperature=0.7, top_p=0.8", "logprobs=true",
    "temperature=1.0, min_p=0.2, seed=3", 'temperature=1.0, stop="é"',
]  # fmt: skip

PRELUDE = """record Pair:
    word: str(max_tokens=2)
    count: int(0..9)

record Nest:
    inner: Pair
    tags: list[choice["a", "ab"]](max_items=2)
    more: regex "a?b{0,2}"

tool flaky(text: str) -> str
tool size(text: str) -> int
pure tool shout(text: str) -> str
pure tool broken(text: str) -> str

program other(text: str) -> str:
    "({text}"
    gen more(max_tokens=3, temperature=1.0)
    if len(more) > 2:
        return more
    ")"
    return "short"

program tail(text: str) -> str:
    "[{text}: "
    gen word(max_tokens=2)
    "]"
    return word + text

program deep(text: str) -> str:
    "{text}"
    fork 2 as sides:
        let side = call other(text)
        gen said(max_tokens=2, temperature=1.0)
        yield side + said
    return sides[0]

"""


def flaky(text: str) -> str:
    """Fail for every other length."""
    if len(text) % 2:
        raise ValueError(f"odd text of {len(text)}")
    return text[:3]


def broken(text: str) -> str:
    """Fail always."""
    raise RuntimeError(f"no {text}")


TOOLS: dict[str, Callable[..., Any]] = {
    "flaky": flaky, "size": len, "shout": str.upper, "broken": broken,
}  # fmt: skip


@dataclass
class Node:
    """A statement: its first line, its block with a fixed last line, blocks that go on (`else`)."""

    head: str
    body: list[Node] | None = None
    last: str | None = None
    more: list[Node] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the statement's text."""
        found = [self.head]
        if self.body is not None:
            found += ["    " + line for inner in self.body for line in inner.lines()]
            found += [f"    {self.last}"] if self.last else []
        return found + [line for node in self.more for line in node.lines()]


def render(body: list[Node]) -> str:
    """Return the whole file of a program with this body."""
    lines = ["    " + line for node in body for line in node.lines()]
    head = "program random(arg: str, items: list[str]) -> list[str]:"
    return PRELUDE + "\n".join([head, *lines, ""])


def random_program(random: Random) -> list[Node]:
    """Return the body of a random program; it ends in a return."""
    writer = _Writer(random)
    scope = _Scope(["arg"], ["items"])
    body = writer.block(scope, 0, random.randint(2, 6), in_message=False)
    values = [*scope.texts, *scope.numbers, *scope.lists]
    shown = (f'"{{{value}}}"' for value in random.sample(values, min(3, len(values))))
    return [*body, Node(f"return [{', '.join(shown)}]")]


@dataclass
class _Scope:
    """The names that a place may use, by what they are."""

    texts: list[str] = field(default_factory=list)
    lists: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)
    assignable: list[str] = field(default_factory=list)
    in_fork: bool = False

    def inner(self, fork: bool = False) -> _Scope:
        """Return the scope of a block, whose own names end with it; a fork's sets no outer name."""
        changed = [] if fork else list(self.assignable)
        texts, lists, numbers = list(self.texts), list(self.lists), list(self.numbers)
        return _Scope(texts, lists, numbers, changed, fork or self.in_fork)


class _Writer:
    """Writes blocks of statements; names are numbered, so that each is bound once."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._number = 0

    def block(self, scope: _Scope, depth: int, size: int, in_message: bool) -> list[Node]:
        kinds = ["text"] * 4 + ["gen"] * 3 + ["typed", "select", "score", "let", "let", "assign"]
        kinds += ["tool", "dead"]
        if depth < 3:
            kinds += ["fork", "fork", "join", "inline", "call", "loop", "loop", "while_", "if_",
                      "if_", "match", "catch", "with_"]  # fmt: skip
            kinds += [] if in_message else ["message", "message"]
        return [
            node
            for _ in range(size)
            for node in getattr(self, self._random.choice(kinds))(scope, depth, in_message)
        ]

    def _name(self, hint: str) -> str:
        self._number += 1
        return f"{hint}{self._number}"

    def _pick(self, *options: str) -> str:
        return self._random.choice(options)

    def _block(self, scope: _Scope, depth: int, in_message: bool, most: int = 3) -> list[Node]:
        return self.block(scope, depth + 1, self._random.randint(1, most), in_message)

    # Expressions.

    def _text_of(self, scope: _Scope, depth: int = 0) -> str:
        if depth > 1:
            return self._pick('"a"', "arg", *scope.texts)
        inner, number = self._text_of(scope, depth + 1), self._int_of(scope, depth + 1)
        return self._pick(
            *scope.texts, '"b "', '"ab"', '"é "', '""', f"{inner}.upper()", f"{inner}.strip()",
            f"{inner} + {self._text_of(scope, depth + 1)}", f"shout({inner})",
            f'" ".join({self._list_of(scope, depth + 1)})', f"str({number})",
            f'"<{{{inner}}}|{{{number}}}>"' if '"' not in inner else inner,
            f'{inner}.replace("a", "bb")', '("ab" * 2)', 'shout("a b")',
        )  # fmt: skip

    def _int_of(self, scope: _Scope, depth: int = 0) -> str:
        if depth > 1:
            return self._pick("0", "1", "2", *scope.numbers)
        return self._pick(
            "1", "3", *scope.numbers, f"len({self._text_of(scope, depth + 1)})",
            f"len({self._list_of(scope, depth + 1)})", f"size({self._text_of(scope, depth + 1)})",
            f"{self._int_of(scope, depth + 1)} + 1", f"2 * {self._int_of(scope, depth + 1)} - 1",
        )  # fmt: skip

    def _list_of(self, scope: _Scope, depth: int = 0) -> str:
        text = self._text_of(scope, 2)
        return self._pick(
            '["p", "a b"]', "[]", f'[{text}, "x"]', "items", *scope.lists, f"items + [{text}]",
            'sorted(["b", "a", "c"])', f'{text}.split(" ")', '["é", "", "ab "]',
        )  # fmt: skip

    def _bool_of(self, scope: _Scope, depth: int = 0) -> str:
        text, number = self._text_of(scope, 1), self._int_of(scope, 1)
        if depth > 1:
            return self._pick("true", "false", f"len(arg) > {self._random.randint(0, 8)}")
        one, other = self._bool_of(scope, depth + 1), self._bool_of(scope, depth + 1)
        return self._pick(
            "true", "false", f"{number} > {self._random.randint(0, 8)}", f'"a" in {text}',
            f"not {self._bool_of(scope, depth + 1)}", f"{one} and {other}", f"{one} or {other}",
            f'{text} == "a"', f'{text} in ["a", "hello"]', "1 + 1 == 2",
        )  # fmt: skip

    # Statements.

    def text(self, scope: _Scope, depth: int, in_message: bool) -> list[Node]:
        text = self._random.choice(TEXTS)
        if self._random.random() < 0.4:
            inserted = self._random.choice([*scope.texts, *scope.lists, *scope.numbers])
            text = self._pick(text + "{" + inserted + "}", "{" + inserted + "}" + text)
        return [Node(f'"{text}"')]

    def gen(self, scope: _Scope, depth: int, in_message: bool) -> list[Node]:
        options, budget = self._random.choice(OPTIONS), f"max_tokens={self._random.randint(1, 7)}"
        name = self._name("g")
        scope.texts.append(name)
        return [Node(f"gen {name}({budget}{', ' + options if options else ''})")]

    def typed(self, scope: _Scope, depth: int, in_message: bool) -> list[Node]:
        name, type = self._name("t"), self._random.choice(TYPES)
        if type.startswith("int"):
            scope.numbers.append(name)
        elif type.startswith(("choice", "regex")):
            scope.texts.append(name)
        elif type == "Pair":
            scope.texts.append(f"{name}.word")
            scope.numbers.append(f"{name}.count")
        options = self._random.choice(TYPED_OPTIONS)
        budget = f"max_tokens={self._pick('4', '24', '90')}{', ' + options if options else ''}"
        return [Node(f"gen {name}({budget}): {type}")]

    def select(self, scope: _Scope, depth: int, in_message: bool) -> list[Node]:
        by = self._pick("", '(by="greedy")', '(by="unconditional")')
        options = self._pick(
            '["a", "ab", "hello", "ab the", "{{arg}}c"]', '["a", "é", "{arg} x"]', '["one"]',
            f'[{self._text_of(scope, 2)} + "a", "ab"]', '["ab", "a", "abab", "b ", " the"]',
            '["{arg}b", "a", "{arg}b"]', f'[{self._text_of(scope, 2)} + "a", "{{arg}}a", "a"]',
        )  # fmt: skip
        name = self._name("s")
        scope.texts.append(name)
        return [Node(f"select {name}{by} from {options}")]

    def score(self, scope: _Scope, depth: int, in_message: bool) -> list[Node]:
        return [Node(f"let {self._name('v')} = score({self._pick(*map(repr_of, SCORED))})")]

    def let(self, scope: _Scope, depth: int, in_message: bool) -> list[Node]:
        kind = self._pick("texts", "texts", "numbers", "lists")
        name = self._name({"texts": "w", "numbers": "n", "lists": "l"}[kind])
        value = {"texts": self._text_of, "numbers": self._int_of, "lists": self._list_of}[kind]
        type = {"texts": "str", "numbers": "int", "lists": "list[str]"}[kind]
        node = Node(f"let {name}: {type} = {value(scope)}")
        getattr(scope, kind).append(name)
        scope.assignable.append(name)
        return [node]

    def assign(self, scope: _Scope, depth: int, in_message: bool) -> list[Node]:
        if not scope.assignable:
            return self.let(scope, depth, in_message)
        name = self._random.choice(scope.assignable)
        value = {"w": self._text_of, "n": self._int_of, "l": self._list_of}[name[0]](scope)
        return [Node(f"{name} = {value}")]

    def tool(self, scope: _Scope, depth: int, in_message: bool) -> list[Node]:
        name = self._name("n")
        node = Node(f"let {name} = size({self._text_of(scope)})")
        scope.numbers.append(name)
        return [node]

    def dead(self, scope: _Scope, depth: int, in_message: bool) -> list[Node]:
        run = self._pick("call tail", "call deep", "shout", "flaky", "size")
        return [Node(f"let {self._name('d')} = {run}({self._pick(*map(repr_of, SCORED))})")]

    def fork(self, scope: _Scope, depth: int, in_message: bool) -> list[Node]:
        name, inner = self._name("l"), scope.inner(fork=True)
        head = f"fork {self._random.randint(1, 3)} as {name}:"
        if self._random.random() < 0.6:
            item = self._name("item")
            head = f"fork {item} in {self._list_of(scope)} as {name}:"
            inner.texts.append(item)
        body = self._block(inner, depth, in_message)
        scope.lists.append(name)
        return [Node(head, body, f"yield {self._text_of(inner, 1)}")]

    def join(self, scope: _Scope, depth: int, in_message: bool) -> list[Node]:
        name, inner = self._name("f"), scope.inner(fork=True)
        body = self._block(inner, depth, in_message)
        points = self._pick('score("hello")', f"len({self._text_of(inner, 1)})")
        fork = Node(f"fork {self._random.randint(1, 3)} as {name}:", body, f"yield {points}")
        return [fork, Node(f"join best(by={name})" + self._pick("", f" as {self._name('j')}"))]

    def inline(self, scope: _Scope, depth: int, in_message: bool) -> list[Node]:
        name = self._name("w")
        node = Node(f"let {name} = inline {self._pick('other', 'tail', 'deep')}(arg)")
        scope.texts.append(name)
        return [node]

    def call(self, scope: _Scope, depth: int, in_message: bool) -> list[Node]:
        name, text = self._name("w"), self._text_of(scope, 1)
        node = Node(f"let {name} = call {self._pick('other', 'tail', 'deep')}({text})")
        scope.texts.append(name)
        return [node]

    def loop(self, scope: _Scope, depth: int, in_message: bool) -> list[Node]:
        inner, name = scope.inner(), self._name("i")
        if self._random.random() < 0.5:
            inner.texts.append(name)
            over = self._list_of(scope)
        else:
            inner.numbers.append(name)
            over = f"range({self._random.randint(0, 3)})"
        return [Node(f"for {name} in {over}:", self._block(inner, depth, in_message, 2))]

    def while_(self, scope: _Scope, depth: int, in_message: bool) -> list[Node]:
        body = self._block(scope.inner(), depth, in_message, 2)
        return [Node(f"while {self._bool_of(scope)} up to {self._random.randint(1, 2)}:", body)]

    def if_(self, scope: _Scope, depth: int, in_message: bool) -> list[Node]:
        node = Node(f"if {self._bool_of(scope)}:", self._block(scope.inner(), depth, in_message))
        if self._random.random() < 0.5:
            node.more.append(Node("else:", self._block(scope.inner(), depth, in_message)))
        if self._random.random() < 0.15 and depth and not scope.in_fork:
            node.body.append(Node(f"return [{self._text_of(scope, 1)}]"))
        return [node]

    def match(self, scope: _Scope, depth: int, in_message: bool) -> list[Node]:
        first = self._block(scope.inner(), depth, in_message, 2)
        second = self._block(scope.inner(), depth, in_message, 2)
        cases = [Node('case "a" | "hello":', first), Node("case _:", second)]
        return [Node(f"match {self._text_of(scope)}:", cases)]

    def catch(self, scope: _Scope, depth: int, in_message: bool) -> list[Node]:
        failed, error = scope.inner(), self._name("e")
        failed.texts.append(f"{error}.message")
        fine, value = scope.inner(), self._name("w")
        fine.texts.append(value)
        run = f"{self._pick('flaky', 'flaky', 'shout', 'broken')}({self._text_of(scope, 1)})"
        cases = [
            Node(f"case error {error}:", self._block(failed, depth, in_message, 2)),
            Node(f"case value {value}:", self._block(fine, depth, in_message, 2)),
        ]
        return [Node(f"match {run}:", cases)]

    def with_(self, scope: _Scope, depth: int, in_message: bool) -> list[Node]:
        who = self._pick('adapter "poet"', "priority 2")
        return [Node(f"with {who}:", self._block(scope.inner(), depth, in_message, 2))]

    def message(self, scope: _Scope, depth: int, in_message: bool) -> list[Node]:
        role = self._pick("system", "user", "assistant")
        return [Node(f"{role}:", self._block(scope, depth, True))]


SCORED = ["a", "hello the", " ", "", "é"]


def repr_of(text: str) -> str:
    return f'"{text}"'
