"""Each construct of the language: the optimised run equals the oracle, alone and in a batch."""

from __future__ import annotations

import pytest
from weft.ir.core import walk
from weft.ir.diagnostics import RunError, WeftError
from weft.runtime.programs.events import TextPiece


def check(toy, text, tools=None, rows=None, seed=3, **limits):
    """Run rows together and by the oracle; return the values, which are equal."""
    rows = rows or [{"arg": word} for word in ("hello", "a b", "the sky is blue " * 4)]
    executable = toy.compile(text, tools, seed=seed, **limits)
    oracle = toy.oracle(text, tools, seed=seed)
    expected = [oracle(number, **row) for number, row in enumerate(rows)]
    together = executable.run_rows(rows)
    assert together.values == [result.value for result in expected]
    toy.assert_clean(executable)
    alone = executable.run(**rows[0])
    assert alone.values == expected[0].values
    assert toy.tokenizer.decode(expected[0].ids).startswith(alone.text)
    toy.assert_clean(executable)
    return together.values


def parse(text: str) -> int:
    if "hello" in text:
        raise ValueError(f"no number in {text!r}")
    return len(text)


MATCH = """
tool parse(text: str) -> int

program p(arg: str) -> str:
    user "{arg}"
    assistant gen answer(max_tokens=5): choice["yes", "no", "a b"]
    let number = parse(arg)
    match number:
        case error e:
            user "{e}: {e.tool} {e.kind} {e.message}"
            assistant gen again(max_tokens=4, temperature=1.0)
            number = parse("x" + again)
        case 1 | 2 | 3:
            "small"
        case value n:
            "n={n + 1}"
    match answer:
        case "yes":
            let word = "Y"
        case "no" | "a b":
            let word = "N"
    gen last(max_tokens=3)
    return "{word} {number} {last}"
"""


def test_match(toy):
    values = check(toy, MATCH, {"parse": parse})
    assert values[1].split()[1] == "3" and values[2].split()[1] == str(len("the sky is blue ") * 4)


def test_retries_in_a_loop(toy):
    text = """
tool parse(text: str) -> int

program p(arg: str) -> str:
    let found = 0
    let tries = ""
    while len(tries) < 3 up to 5:
        "Try {tries}: "
        gen line(max_tokens=3, temperature=1.0)
        found = parse(arg + line)
        match found:
            case error e:
                "{e}\\n"
                tries += "!"
            case _:
                tries += "..."
    match found:
        case error:
            return tries
        case value n:
            return "{n} {tries}"
"""
    values = check(toy, text, {"parse": parse})
    assert values[0] == "!!!" and values[1].endswith(" ...")


@pytest.mark.parametrize("use", ['return "{number}"', "return str(number + 1)"])
def test_an_unmatched_error_ends_the_run(toy, use):
    text = f"""
tool parse(text: str) -> int

program p(arg: str) -> str:
    let number = parse(arg)
    if arg == "":
        match number:
            case error e:
                return e.message
            case _:
                "fine"
    {use}
"""
    executable = toy.compile(text, {"parse": parse})
    with pytest.raises(RunError, match=r"row 0: tool parse raised ValueError: no number") as caught:
        executable.run(arg="hello")
    assert caught.value.span.line == text.splitlines().index(f"    {use}") + 1
    with pytest.raises(WeftError, match="tool parse raised ValueError"):
        toy.oracle(text, {"parse": parse})(0, arg="hello")
    toy.assert_clean(executable)


PROGRAMS_OF_PROGRAMS = """
program short(text: str, most: str = "few") -> str:
    user "Say {text} in {most} words."
    assistant gen said(max_tokens=4, temperature=1.0)
    return said

program early(text: str) -> int:
    for number in range(3):
        " {number}"
        gen more(max_tokens=2, temperature=1.0)
        if len(text) > 5:
            " long"
            return number
        while len(more) > 1 up to 2:
            "."
            return 10 + number
    " end"
    return 7

program main(arg: str) -> list[str]:
    user "Begin {arg}"
    let first = call short(arg)
    let second = inline short(first, most="two")
    assistant:
        "Number:"
        let number = inline early(arg)
        " and"
        gen last(max_tokens=3)
    fork 2 as more:
        let third = call short(last)
        let fourth = inline short(third)
        yield "{third} {fourth}"
    let again = [call short("x"), call short("y", most="no")]
    return [first, second, last, str(number)] + more + again
"""


def test_programs_of_programs(toy):
    values = check(toy, PROGRAMS_OF_PROGRAMS)
    assert values[2][3] == "0" and {row[3] for row in values} <= {"0", "10", "7"}


def test_an_inlined_program_that_returns_in_a_message(toy):
    text = """
program grade(text: str) -> str:
    assistant:
        select mark from ["A", "B"]
        if mark == "A":
            return "best"
        " why: "
        gen why(max_tokens=3)
    return why

program main(arg: str) -> str:
    user "{arg}"
    let one = inline grade(arg)
    user "again"
    let two = inline grade(one)
    return one + two
"""
    check(toy, text)


def test_inlining_a_program_without_early_returns_keeps_texts_known(toy):
    plain = 'program main(arg: str):\n    "a b the"\n    "hello {arg}"\n    gen x(max_tokens=2)\n'
    inlined = (
        'program start():\n    "a b the"\n    "hello "\n\n'
        'program main(arg: str):\n    inline start()\n    "{arg}"\n    gen x(max_tokens=2)\n'
    )
    found = []
    for text in (plain, inlined):
        main = toy.plan(toy.lowered(text)).symbol("main")
        found.append([op["parts"] for op in walk((main,)) if op.name == "plan.tokenize"])
    assert found[0] == found[1]


SCORES = """
program main(arg: str) -> list[float]:
    "Say {arg}. "
    let first = score("hello the")
    let second = score("ab")
    if first > second:
        "the "
    else:
        "a b "
    let rounds = 0
    while score(" A") < 0.0 and rounds < 2 up to 3:
        " B"
        rounds += 1
    fork word in ["A", "{arg} ", ""] as branches:
        " x {word}"
        yield score("hello") + score("")
    gen line(max_tokens=3, logprobs=true)
    select best from ["A", "AB", "a b", "hello A"]
    " and "
    select other(by="unconditional") from ["A", "{arg}"]
    let most = best.probs["A"]
    if best.probs[best] > 0.5 or min(line.logprobs) < -2.0:
        "sure {most > 0.9}"
    gen last(max_tokens=2)
    return [first, second] + branches + [most] + line.logprobs
"""


def test_scores_and_probabilities(toy):
    rows = [{"arg": "hello"}, {"arg": "a b "}, {"arg": "the sky " * 5}]
    executable, oracle = toy.compile(SCORES, seed=2), toy.oracle(SCORES, seed=2)
    together = executable.run_rows(rows)
    for number, row in enumerate(rows):
        expected = oracle(number, **row)
        assert together.values[number] == pytest.approx(expected.value, abs=1e-4)
        assert executable.run(**row).value[:2] == pytest.approx(expected.value[:2], abs=1e-4)
    toy.assert_clean(executable)


def test_options_known_now_are_encoded_now(toy):
    plan = toy.plan(toy.lowered(SCORES))
    known = [op.attribute("tokens") is not None for op in plan.walk() if op.name == "plan.select"]
    assert known == [True, False]


JOINS = """
program think(arg: str) -> str:
    user "{arg}"
    fork 3 as thoughts:
        assistant gen thought(max_tokens=4, temperature=1.2)
        user "Rate it."
        fork 2 as tries:
            assistant gen step(max_tokens=3, temperature=1.2)
            yield [score("hello"), score(" A")]
        let points = [tries[0][0], tries[1][0]]
        join best(by=points) as found
        yield found[1]
    let rated = thoughts
    join best(by=rated) as top
    user "So"
    for number in range(2):
        fork 2 as ends:
            " {number}"
            gen end(max_tokens=2, temperature=1.0)
            yield len(end)
        join best(by=ends)
        " then"
    assistant gen answer(max_tokens=3)
    return "{top < 0.0} {answer} {len(ends)}"
"""


def test_joins(toy):
    check(toy, JOINS.replace(" {len(ends)}", ""))
    check(toy, JOINS.replace(" {len(ends)}", ""), num_pages=120, max_batch=4)


def test_a_join_of_nothing_ends_the_run(toy):
    text = """
program p(arg: list[str]) -> str:
    "x"
    fork word in arg as lengths:
        gen more(max_tokens=2)
        yield len(word)
    join best(by=lengths)
    gen last(max_tokens=2)
    return last
"""
    executable = toy.compile(text)
    assert executable.run(arg=["a", "abc"]).value == toy.oracle(text)(0, arg=["a", "abc"]).value
    with pytest.raises(WeftError, match="join best has no branch to go on with"):
        executable.run(arg=[])
    toy.assert_clean(executable)


def test_who_computes_is_carried_to_the_plan(toy):
    text = """
program p(arg: str):
    "{arg}"
    with adapter "poet":
        gen one(max_tokens=2)
        with priority 3:
            select two from ["a", "b"]
    with client "openai:http://localhost#m":
        gen three(max_tokens=2)
    gen four(max_tokens=2)
"""
    plan = toy.plan(toy.lowered(text))
    found = [
        {key: op.attribute(key) for key in ("adapter", "client", "priority") if op.attribute(key)}
        for op in plan.walk()
        if op.name in {"plan.decode", "plan.select"}
    ]
    client = {"client": "openai:http://localhost#m"}
    assert found == [{"adapter": "poet"}, {"adapter": "poet", "priority": 3}, client, {}]


def test_schema_and_grammar_files(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tree.json").write_text(
        '{"type": "object", "properties": {"name": {"enum": ["a", "b"]}, "sub": {"type": "array", '
        '"maxItems": 1, "items": {"$ref": "#"}}}, "required": ["name", "sub"], '
        '"additionalProperties": false}'
    )
    (tmp_path / "sum.lark").write_text(
        'start: term ("+" term)~0..2\nterm: /[0-9]/ | "(" start ")"\n'
    )
    text = """
program p(arg: str) -> str:
    "{arg} "
    gen tree(max_tokens=200, temperature=1.0): schema "tree.json"
    "\\n"
    gen total(max_tokens=40, temperature=1.0): grammar "sum.lark"
    if len(tree.sub) > 0:
        return "{tree.name} {tree.sub[0].name} {total}"
    return "{tree.name} {total}"
"""
    for value in check(toy, text):
        assert value[0] in "ab" and value[-1] in "0123456789)"


def test_stop_patterns(toy):
    text = """
program p(arg: str) -> list[str]:
    "{arg} "
    gen one(max_tokens=30, temperature=1.5, stop=regex "[a-c]+[ e-z]|é"): str
    "|"
    gen two(max_tokens=30, temperature=1.5, stop=regex "(?s)..."): str
    " "
    gen three(max_tokens=30, temperature=1.5, stop=regex "the?") : regex "[a-z ]{20,30}"
    return [one, two, three]
"""
    values = check(toy, text)
    assert all(two == "" for _, two, _ in values)
    executable = toy.compile(text, seed=3)
    events = list(executable.stream(arg="hello"))
    shown = [event.text for event in events if isinstance(event, TextPiece) and event.name == "one"]
    assert "".join(shown) == values[0][0]


def test_lists_in_lists_and_records(toy):
    text = """
record Cell:
    mark: choice["a", "b"]
    notes: list[list[int(0..9)](max_items=1)](max_items=2)

program p(arg: str, most: int(1..9) = 2, tags: list[choice["a", "b"]] = ["b"]) -> list[str]:
    "{arg} {most}{tags} "
    gen rows(max_tokens=300, temperature=1.0): list[list[Cell](max_items=2)](max_items=2)
    gen flags(temperature=1.0): list[bool](max_items=1)
    let marks: list[str] = []
    for row in rows:
        for cell in row:
            marks += [cell.mark + str(len(cell.notes))]
    return marks + [str(len(rows)), str(len(flags))]
"""
    for value in check(toy, text):
        assert int(value[-2]) <= 2 and int(value[-1]) <= 1 and len(value) <= 6
