"""All errors of a file at once: of its syntax, and of names and types; each mistake told once."""

import pytest
from weft.frontend.semantics.checker import check, check_all
from weft.frontend.semantics.errors import MissingArgument, MissingReturn
from weft.frontend.text.mistake_examples import EXAMPLES
from weft.frontend.text.parser import parse_text
from weft.frontend.text.recovery import parse_all
from weft.ir.diagnostics import WeftError
from weft.ir.source import Source
from weft.tests.frontend import test_checker as mistakes

MANY = """\
record R:
    score: int(10..1)
    who: Persn
    score: str

tool look(text: str, times: int = "x") -> Q

program p(n: int, xs: list[str], t: str) -> str:
    let a = foo(t) + 1
    let b = t + n
    user "{missing} {a.x} {alos} {len(b) + 1}"
    for x in yy:
        gen c(max_token=3)
        c = 3
        user:
            assistant "no"
    match nobody:
        case error e:
            let z = e.text
    match look(t, 1, 2):
        case error e:
            let z = e.text
    fork side in n as reviews:
        user "{side}"
        gen r: Rx
    with priority "high":
        gen d: int(5..1)
    if q:
        return nn
    return n

program p(len: int):
    let ok = call p(a)

program r(x: str):
    let a = inline s(y)

program s(x: str):
    inline r(x, 2)
"""

UNREADABLE = '''\
record R:
    score int(1..10)
    who: str

recrd Q:
    a: str

tool look(text: str, times: int = ) -> Q

program p(n: int, xs: list[str], t: str -> str:
    let a = 1
    return "x"

program q(n: int) -> str:
    usr "hi"
    user "open
    if n >
        gen a
    elif
        gen a
    gen b: schema "nowhere.json"
    match n
        case 1:
            "a"
    match n:
        case:
            "a"
    gen c
      "deep"
      "deeper"
    let = 3
    for x in [1,
        2:
        "x"
    return n

program r() -> str:
    """never closed
    return 1

program s():
    returm 1
    while x < 3:
        gen a
    if x:
    gen a

  program u():
    gen a
'''


def test_all_errors_of_a_file_are_told_each_once(golden):
    errors, warnings = check_all(parse_text(MANY, "many.weft"))
    assert not warnings
    golden("errors/many.txt", "\n\n".join(error.render() for error in errors) + "\n")
    places = [(error.span.line, error.span.column) for error in errors]
    assert places == sorted(places)


def test_syntax_is_read_on_behind_each_error(golden):
    file, errors = parse_all(Source("unreadable.weft", UNREADABLE))
    assert file is None
    golden("errors/many_of_syntax.txt", "\n\n".join(error.render() for error in errors) + "\n")


def test_every_mistake_that_ends_a_check_is_found_alone_and_among_all_others():
    alone = {}
    for name, body in mistakes.MISTAKES.items():
        text = f"{mistakes.HEAD}    {body}\n"
        first = mistakes.failure(text)
        errors, _ = check_all(parse_text(text, "program.weft"))
        assert first.render() in [error.render() for error in errors], name
        others = {"program's arguments": MissingArgument}.get(name, MissingReturn)
        assert {type(error) for error in errors} <= {type(first), others}, name
        alone[name] = len(errors)
    # As many programs in one file, except what ends a file's check of its own kind.
    once = {"half of a pair", "half of a pair in a stop", "half of a pair in a choice",
            "half of a pair as itself", "recursion", "program's arguments",
            "too many cases"}  # fmt: skip
    head, _, signature = mistakes.HEAD.partition("program p")
    bodies = {name: body for name, body in mistakes.MISTAKES.items() if name not in once}
    text = head + "".join(
        f"program p{'' if at == 0 else at}{signature}    {body}\n\n"
        for at, body in enumerate(bodies.values())
    )
    errors, _ = check_all(parse_text(text, "program.weft"))
    assert len(errors) == sum(alone[name] for name in bodies)
    assert sum(alone.values()) <= len(alone) + 3


@pytest.mark.parametrize("text", [MANY, UNREADABLE], ids=["many", "unreadable"])
def test_the_first_error_is_among_them(text):
    source = Source("p.weft", text)
    with pytest.raises(WeftError) as first:
        check(parse_text(text, "p.weft"))
    file, errors = parse_all(source)
    if file is not None:
        errors, _ = check_all(file)
    assert first.value.render() in [error.render() for error in errors]


def test_every_example_of_a_mistake_is_one_error_and_the_text_behind_it_is_read():
    behind = "\nprogram behind():\n    usr 3\n"
    for kind, texts in EXAMPLES.items():
        for text in texts:
            file, errors = parse_all(Source("p.weft", text))
            assert file is None and errors and type(errors[0]) is kind, text
            _, errors = parse_all(Source("p.weft", text.rstrip("\n") + "\n" + behind))
            said = (text, [error.render() for error in errors])
            # Where more is wanted, what stands behind it is what does not fit there.
            ends = not text.startswith(" ") and not text.rstrip().endswith(("[", "("))
            assert not ends or kind in {type(error) for error in errors}, said
            assert errors[-1].span.line > text.rstrip("\n").count("\n") + 2, said


def test_a_file_without_mistakes_is_read_as_ever():
    text = 'program p(t: str) -> str:\n    user "{t}"\n    assistant gen a\n    return a\n'
    file, errors = parse_all(Source("p.weft", text))
    assert file == parse_text(text, "p.weft") and not errors
    assert check_all(file) == ([], [])
