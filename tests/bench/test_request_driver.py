"""The baseline's clients say what the oracle says, and ask for it as clients of a server do."""

from dataclasses import dataclass

import pytest
from weft.bench.contest.calls import watch
from weft.bench.contest.contest import forget_prefixes, longest_prefix_first
from weft.bench.contest.driver import Program
from weft.bench.contest.grammars import Grammars
from weft.bench.contest.server import Server
from weft.frontend.lowering.lower import lower
from weft.frontend.semantics.checker import check
from weft.frontend.semantics.constraints import constraint_of
from weft.frontend.text.parser import parse_text
from weft.runtime.engine import Engine
from weft.runtime.reference import Reference
from weft.runtime.simulator import ToyChat, ToyExecutor, ToyTokenizer, toy_logits

TOKENIZER = ToyTokenizer()  # of bytes only: whatever meets, text is tokenized as it was

PROGRAMS = {
    "gens in turn": """
program p(topic: str) -> list[str]:
    system "S"
    let said: list[str] = []
    for word in ["one", "two"]:
        user "{topic} {word}"
        assistant gen answer(max_tokens=6, stop=["q", "Z"])
        said += [answer]
    return said
""",
    "forks within forks, sampled": """
program p(topic: str) -> list[list[str]]:
    user "About {topic}:"
    fork side in ["left", "right"] as sides:
        user "{side}"
        fork 2 as drafts:
            assistant gen draft(max_tokens=5, temperature=0.8, seed=3)
            yield draft
        yield drafts
    user "Now {sides}"
    assistant gen last(max_tokens=4)
    return sides + [[last]]
""",
    "join best": """
program p(topic: str) -> str:
    user "{topic}"
    fork 3 as steps:
        assistant gen step(max_tokens=4, temperature=0.9)
        user "Good?"
        assistant select good from ["yes", "no"]
        yield good.probs["yes"]
    join best(by=steps) as hope
    assistant gen rest(max_tokens=4)
    return "{rest} {hope > 0.5}"
""",
    "selects and scores": """
program p(topic: str) -> list[str]:
    "{topic}: "
    let points = score("abc")
    select first from ["alpha", "alps", "b"]
    " then "
    select second(by="greedy") from ["xx", "xy"]
    " and "
    select third(by="unconditional") from ["xx", "xy", "z"]
    return [first, second, third, "{points < 0.0}"]
""",
    "constraints": """
record Pair:
    word: str(max_tokens=3)
    count: int(1..20)

program p(topic: str) -> str:
    user "{topic}"
    assistant gen pair(max_tokens=80): Pair
    user "Again: "
    assistant:
        "Answer: "
        gen kind: choice["red", "blue"]
        " "
        gen number: int(-5..120)
    return "{pair.word} {pair.count} {kind} {number}"
""",
    "tools, match and while": """
tool half(number: int) -> int

program p(topic: str) -> str:
    let number = len(topic)
    let said = ""
    while number > 1 up to 5:
        user "{number}"
        assistant gen word(max_tokens=3)
        said += word
        let next = half(number)
        match next:
            case error e:
                return "{said} {e.kind}"
            case value v:
                number = v
    return said
""",
    "call and inline": """
program other(text: str) -> str:
    "{text}!"
    gen answer(max_tokens=4)
    if answer == "":
        return "nothing"
    gen more(max_tokens=3)
    return more

program p(topic: str) -> list[str]:
    user "Topic {topic}"
    let there = call other(topic)
    let here = inline other(there)
    return [there, here]
""",
}
ROWS = [{"topic": "sun"}, {"topic": "sunday"}, {"topic": "a"}, {"topic": "sun"}]


def half(number: int) -> int:
    if number % 2:
        raise ValueError("odd")
    return number // 2


def ascii_only(logits):
    """Leave out what is no text alone: clients keep text, and would lose it."""
    logits[..., 5 + 128 :] = -1e9
    logits[..., [0, 2, 3, 4]] = -1e9
    return logits


class AsciiExecutor(ToyExecutor):
    def all_logits(self, step):
        return ascii_only(super().all_logits(step))


@dataclass
class Made:
    """A program's text, lowered, with an engine and what serves it."""

    text: str
    forced: bool = False

    def __post_init__(self) -> None:
        file = parse_text(self.text)
        check(file)
        self.module = lower(file)
        executor = AsciiExecutor(TOKENIZER.size, context_length=2048, num_pages=600)
        self.engine = Engine(executor)
        grammars = Grammars(TOKENIZER, executor.vocab_size, self.forced)
        self.server = Server(self.engine, TOKENIZER, grammars)
        self.program = Program(self.module, "p", ToyChat(), constraint_of, {"half": half}, seed=11)

    def run(self, rows=ROWS):
        return self.program.run_rows(self.server, dict(enumerate(rows)))

    def oracle(self, row: int):
        def logits(ids):
            return ascii_only(toy_logits(ids, TOKENIZER.size))

        reference = Reference(
            self.module, "p", logits, TOKENIZER, ToyChat(), constraint_of, {"half": half}, seed=11
        )
        return reference.run(row, **ROWS[row])


@pytest.mark.parametrize("name", PROGRAMS)
def test_clients_say_what_the_oracle_says(name):
    made = Made(PROGRAMS[name])
    for row, answer in enumerate(made.run()):
        assert answer.error is None
        expected = made.oracle(row)
        assert answer.value == expected.value
        assert {key: answer.values[key] for key in expected.values} == expected.values
    made.engine.check()
    assert made.engine.kv.live == 0


@pytest.mark.parametrize("change", [forget_prefixes, longest_prefix_first])
def test_cache_and_order_change_no_answer(change):
    made, plain = (Made(PROGRAMS["forks within forks, sampled"]) for _ in range(2))
    change(made.engine)
    assert made.run() == plain.run()


def test_a_cache_that_is_off_hits_nothing():
    made = Made(PROGRAMS["gens in turn"])
    forget_prefixes(made.engine)
    log = watch(made.engine)
    made.run()
    assert log.hits == 0 < log.ideal


def test_every_call_sends_the_whole_text():
    made = Made(PROGRAMS["gens in turn"])
    log = watch(made.engine)
    made.run(ROWS[:1])
    first, second = log.calls
    assert second.prompt.startswith(first.prompt)
    assert log.rate_of_ideal == 1.0


def test_a_select_is_one_request_an_option_after_one_for_the_prompt():
    text = 'program p(topic: str) -> str:\n    "{topic}:"\n    select a from ["x", "y", "zz"]\n'
    made = Made(text + "    return a\n")
    log = watch(made.engine)
    made.run(ROWS[:1])
    assert len(log.calls) == 4


def test_a_fork_waits_for_the_text_that_it_shares():
    text = """
program p(topic: str) -> list[str]:
    user "{topic}"
    fork 2 as said:
        assistant gen word(max_tokens=2, temperature=1.0)
        yield word
    return said
"""
    made = Made(text)
    log = watch(made.engine)
    made.run(ROWS[:1])
    assert len(log.calls) == 3
    shared = log.calls[0]
    assert all(call.prompt.startswith(shared.prompt) for call in log.calls[1:])
    assert all(call.known == shared.tokens for call in log.calls[1:])


def test_forced_tokens_change_steps_not_text():
    runs = {}
    for forced in (False, True):
        made = Made(PROGRAMS["constraints"], forced)
        runs[forced] = [answer.values for answer in made.run()], made.engine.steps
    assert runs[True][0] == runs[False][0]
    assert runs[True][1] < runs[False][1]


def test_a_grammar_is_compiled_once():
    made = Made(PROGRAMS["constraints"])
    made.run()
    spent = made.server.grammars.compile_seconds
    made.run()
    assert made.server.grammars.compile_seconds == spent > 0


def test_a_failing_row_is_its_own_answer():
    made = Made('tool half(number: int) -> int\n\nprogram p(topic: str) -> int:\n'
                '    user "{topic}"\n    return half(len(topic))\n')  # fmt: skip
    answers = made.run([{"topic": "ab"}, {"topic": "abc"}])
    assert answers[0].value == 1
    assert "odd" in str(answers[1].error)
