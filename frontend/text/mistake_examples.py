"""Texts that make each kind of syntax mistake, by which `mistakes` knows it again."""

from __future__ import annotations

import re

from ...ir.diagnostics import WeftSyntaxError
from .syntax_errors import (
    BlockOnItsLine,
    ChainedComparison,
    MalformedExpression,
    MalformedFor,
    MalformedFork,
    MalformedGen,
    MalformedIf,
    MalformedJoin,
    MalformedLet,
    MalformedMatch,
    MalformedMessage,
    MalformedParameter,
    MalformedProgram,
    MalformedRecord,
    MalformedReturn,
    MalformedRun,
    MalformedSelect,
    MalformedText,
    MalformedTool,
    MalformedType,
    MalformedWhile,
    MalformedWith,
    MalformedYield,
    MisplacedStatement,
    MissingBlock,
    UnboundedWhile,
    UnexpectedIndentation,
)


def _in_program(statements: str) -> list[str]:
    """Return a program for each of the statements, which `;;` separates."""
    found = re.split(r"\s*;;\s*", statements.strip())
    return [f"program p():\n    {statement}\n" for statement in found]


def _in_match(cases: str) -> list[str]:
    """Return a program for each of the cases, which `;;` separates."""
    found = re.split(r"\s*;;\s*", cases.strip())
    return [f"program p():\n    match x:\n        {case}:\n            return\n" for case in found]


EXAMPLES: dict[type[WeftSyntaxError], list[str]] = {
    MisplacedStatement: [
        "\"text\"\n", "let x = 1\n", "user \"hi\"\n", "x = 1\n", "return 1\n",
        "tool f()\n\nlet x = 1\n", "tool f()\nx = 1\n", "record R:\n    a: int\nx = 1\n",
        "program p():\n    return\ndefine f():\n", "tool f()\n\"text\"\n", "tool f()\nuser x\n",
        "program p():\n    return\n\"text\"\n", "program p():\n    return\nlet x = 1\n",
    ],
    BlockOnItsLine: [
        "program p(): return\n", "program p(): \"a\"\n", "program p(): x = 1\n",
        "record R: x: int\n", "program p():\n    if x:\n        \"a\"\n    else: \"b\"\n",
        "program p() -> str: user \"a\"\n",
        *_in_program("""
            user: "a" ;; assistant: gen x ;; if x: "a" ;; if x: return ;; if x: y = 1 ;;
            if x: user "a" ;; for x in y: "a" ;; for x in y: z ;; while x up to 5: "a" ;;
            while x up to 5: y ;; fork x in y as z: "a" ;; fork 3 as z: yield 1 ;; user: (x)
        """),
    ],
    MissingBlock: [
        "program p():\nreturn 1\n", "record R:\nscore: int\n",
        "program p():\n    if x:\n    return 1\n",
    ],
    UnexpectedIndentation: [
        "program p():\n    \"a\"\n        \"b\"\n", "  program p():\n", "tool f()\n  x\n",
        "program p():\n    if x:\n        \"a\"\n            \"b\"\n",
    ],
    MalformedText: [
        *_in_program("""
            "a" "b" ;; "a": "b" ;; "a" + x ;; "a" x ;; "a", "b" ;; "a".strip() ;; "a" user
        """),
    ],
    MalformedRecord: [
        "record:\n", "record R\n", "record R(a)\n", "record R:\n    a\n", "record R:\n    a = 1\n",
        "record R:\n    a: int = 1\n", "record 1:\n", "record R:\n    1\n",
    ],
    MalformedParameter: [
        "tool f(x)\n", "program p(x):\n", "program p(1):\n", "program p(x: str y: str):\n",
        "program p(x: str, 1):\n", "program p(x=1):\n", "program p(x: str = ):\n",
        "program p(x: str = 1 2):\n", "program p(,):\n",
    ],
    MalformedTool: [
        "tool\n", "tool f\n", "tool f(x: str) ->\n", "tool f(x: str):\n",
        "tool f(x: str) -> int:\n", "tool f(x: str) int\n", "tool 1\n",
    ],
    MalformedProgram: [
        "program:\n", "program p:\n", "program p()\n", "program p(x: str)\n",
        "program p(x: list[str]) -> list[str]\n", "program p(x: str) -> int(1..2)\n",
        "program p(x: str) -> str x\n", "program p(x: str) str:\n", "program p() -> str\n",
        "program p() str:\n", "program p() ->:\n", "program 1\n", "program p() -> str return\n",
    ],
    MalformedType: [
        "program p(x: 1):\n", "program p(x: ):\n", "program p(x: list[]):\n",
        "program p(x: int(1)):\n", "program p(x: int(1..)):\n", "program p(x: list[str int]):\n",
        "program p(x: choice[\"a\" \"b\"]):\n", "program p(x: int(1..2 3)):\n",
        "program p(x: json 1):\n", "program p(x: int(1...5)):\n", "record R:\n    a:\n",
        "program p(x: int(..5)):\n", "program p(x: int(1.5..2)):\n", "program p(x: (0..9)):\n",
        "program p(x: int(1..5y)):\n", "program p(x: int(1..5).y):\n", "record R:\n    a: int b\n",
        *_in_program("""
            gen x: int y ;; gen x: int(1..2) y ;; gen x: int: 1 ;; gen x: (0..9) ;; gen x: 5 ;;
            gen x: list[int] y ;; gen x: ;; gen x: int(1) ;; gen x: int user
        """),
    ],
    MalformedMessage: [
        *_in_program("""
            user ;; user hello ;; user 1 ;; user "a" b ;; user "a" "b" ;; assistant return x ;;
            user("hi") ;; user = "hi" ;; user = 1
        """),
    ],
    MalformedGen: [
        *_in_program("""
            gen ;; gen 1 ;; gen x y ;; gen x(20) ;; gen x(a=1 user) ;; gen x(a=1 b) ;;
            gen x = 1 ;; gen x(a) ;; gen "x" ;; gen x -> int ;; gen x[1]
        """),
    ],
    MalformedSelect: [
        *_in_program("""
            select ;; select x ;; select x in y ;; select x: y ;; select 1 ;; select ["a"] ;;
            select x(by=1) ;; select x from ;; select x from y z ;; select x from ["a"] by 1
        """),
    ],
    MalformedFork: [
        "program p():\n    fork x in y:\n        1\n", "program p():\n    fork 3:\n        1\n",
        *_in_program("""
            fork ;; fork: ;; fork x ;; fork x in y as: ;; fork x in y as 1 ;; fork x as y ;;
            fork x, y in z as w: ;; fork 3 as x ;; fork x in as y ;; fork x in y z as w
        """),
    ],
    MalformedYield: [
        *_in_program("""
            yield ;; yield: ;; yield in ;; yield return ;; yield x y ;; yield 1 2
        """),
    ],
    MalformedFor: [
        *_in_program("""
            for ;; for x ;; for x y ;; for 1 ;; for x = 1 ;; for x in ;; for x in: ;; for x in y ;;
            for x, y in z: ;; for x of y: ;; for x in y z: ;; for x in y as z:
        """),
    ],
    MalformedIf: [
        "program p():\n    if x:\n        \"a\"\n    else x:\n",
        "program p():\n    if x:\n        \"a\"\n    else\n",
        "program p():\n    if x:\n        \"a\"\n    elif:\n",
        *_in_program("""
            if ;; if: ;; if x ;; if x then ;; if x y: ;; else: ;; elif x:
        """),
    ],
    UnboundedWhile: [
        *_in_program("""
            while x: ;; while x ;; while x up: ;; while x up to y: ;; while x up to: ;;
            while x up 5:
        """),
    ],
    MalformedWhile: [
        *_in_program("""
            while ;; while: ;; while x up to 5 ;; while x up to 5 6
        """),
    ],
    MalformedMatch: [
        "program p():\n    match x:\n        \"a\"\n",
        "program p():\n    match x:\n        let y = 1\n",
        "program p():\n    match x:\n        case 1\n",
        "program p():\n    match x:\n        else:\n",
        "program p():\n    match x:\n        case 1:\n            return\n        else:\n",
        "program p():\n    match x:\n        case 1:\n            return\n        default:\n",
        *_in_match("case ;; case 1, 2 ;; case f(x) ;; case a b c ;; case 1 | ;; case [1]"),
        *_in_match("case 1 if y ;; case x.y ;; case x == 1"),
        *_in_program("match x ;; match x y: ;; match x = 1: ;; match x, y:"),
    ],
    MalformedJoin: [
        *_in_program("""
            join best ;; join best: ;; join best(1) ;; join best() ;; join best(by=1) as ;;
            join best(by=1) x ;; join best by x
        """),
    ],
    MalformedWith: [
        *_in_program("""
            with adapter: ;; with adapter "a" ;; with adapter "a" "b": ;; with adapter = 1:
        """),
    ],
    MalformedRun: [
        *_in_program("""
            let x = inline f(1) 2 ;; inline f(1) 2 ;; let x = 1 + inline f(1) ;; inline f(1 user) ;;
            call f(1) 2 ;; return inline f() x
        """),
    ],
    MalformedLet: [
        *_in_program("""
            let ;; let x ;; let 1 ;; let x: int ;; let x = 1 2 ;; let x = y z ;; x = 1 2 ;;
            x = y z ;; let x = f() g ;; let x = (1) 2 ;; let x = 1 up ;; let x = ;; let x == 1 ;;
            x ;; x 1 ;; x = ;; x.y = 1 ;; x[0] = 1 ;; x += ;; x -= 1 ;; let x += 1 ;; x == 1
        """),
    ],
    MalformedReturn: [
        *_in_program("""
            return in ;; return gen x ;; return = 1 ;; return: ;; return x y ;; return 1 2 ;;
            return "a" "b"
        """),
    ],
    ChainedComparison: [
        *_in_program("""
            return 1 < 2 < 3 ;; return 1 == 2 == 3
        """),
    ],
    MalformedExpression: [
        *_in_program("""
            return (1 user) ;; return [1 user] ;; return [1 2] ;; return f(1 user) ;; return x. ;;
            return x.1 ;; return x[user] ;; return x[1 user] ;; return 1 + ;; return 1 * ;;
            return not ;; return a and ;;
            return a or ;; return - ;; return 1 < ;; return 1 in ;; return f(a=) ;;
            return f(1 2) ;; return f(a b) ;; return x[1 2] ;; return (1 :) ;;
            return [,] ;;
            return a not b ;; return (1 2) ;; return () ;; return f(,)
        """),
    ],
}  # fmt: skip
"""Texts that make each mistake; where two fail alike, the first names the mistake."""
