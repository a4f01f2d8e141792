"""More programs of examples/*.weft as Python functions: the statements beyond fork and loops."""

# ruff: noqa: B006, F841
from typing import Literal

from weft.frontend.python.embedded import grammar, matching, program, schema, tool


@tool(timeout=2)
def work_out(expression: str) -> int:
    return 0


@program
def solve(s, question: str) -> str:
    """Ask for a sum, let a tool work it out, and give the model the tool's complaint where it fails."""  # noqa: E501
    s.user(f"{question}\nGive one expression, nothing else.")
    expression = s.assistant.gen(max_tokens=16, stop="\n")
    result = work_out(expression)
    match result:
        case Exception() as e:
            s.user(f"That cannot be worked out ({e.kind}: {e}). Give another expression.")
            expression = s.assistant.gen(max_tokens=16, stop="\n")
            result = work_out(expression)
        case _:
            s.user("Good.")
    match result:
        case Exception() as e:
            return f"no answer: {e}"
        case 0 | 1:
            return "almost nothing"
        case number:
            return f"{expression} = {number}"


@program
def critic(s, text: str, side: str) -> str:
    s.system("You are a critic.")
    s.user(f"What does this say about {side}? {text}")
    opinion = s.assistant.gen(max_tokens=16, stop="\n")
    return opinion


@program
def verdict(s, question: str) -> str:
    s.user(f"{question} Answer yes or no.")
    with s.assistant:
        answer = s.gen(Literal["yes", "no"])
        if answer == "no":
            return "no"
        s += ", because "
        reason = s.gen(max_tokens=12, stop=".")
    return f"yes: {reason}"


@program
def panel(s, text: str, sides: list[str] = ["service", "price"]) -> list[str]:
    s.user("Opinions on a review:")
    for side in sides:
        s.user(s.call(critic, text, side))
    good = s.inline(verdict, "Is it good?")
    fair = s.inline(verdict, "Is it fair?")
    return [good, fair]


@program
def write(s, topic: str) -> str:
    """Draft an opening three times, each with two endings; go on with the draft that reads best."""
    s.user(f"Write two sentences about {topic}.")

    @s.fork(3)
    def openings(s):
        with s.assistant:
            opening = s.gen(max_tokens=12, temperature=0.9, stop=".")
            s += "."

            @s.fork(2)
            def endings(s):
                s += " "
                ending = s.gen(max_tokens=12, temperature=0.9, stop=".", logprobs=True)
                return sum(ending.logprobs)

            s.join_best(by=endings)
            s += "."
        s.user("Is that well written?")
        good = s.assistant.select(["yes", "no"])
        return good.probs["yes"]

    quality = s.join_best(by=openings)
    s.user("Give it a title.")
    title = s.assistant.gen(max_tokens=8, stop="\n")
    return f"{title} ({quality > 0.5})"


@program
def surprise(s, beginning: str, endings: list[str]) -> list[float]:
    """How surprising is each ending? Scores texts as continuations, without sampling."""
    s += f"{beginning} "
    scores: list[float] = []
    for ending in endings:
        scores += [s.score(ending)]
    likeliest = s.select(endings, by="unconditional")
    return scores + [likeliest.probs[likeliest]]


@program
def compare(s, question: str) -> str:
    """Two adapters answer the same prompt; the base model says which answer it likes."""
    s.user(question)

    @s.fork(["plain", "polite"])
    def answers(s, name):
        with s.assistant:
            if name == "plain":
                with s.adapter("plain"):
                    first = s.gen(max_tokens=16, stop="\n")
                answer = first
            else:
                with s.adapter("polite"):
                    second = s.gen(max_tokens=16, stop="\n")
                answer = second
        return answer

    s.user(f"A: {answers[0]}\nB: {answers[1]}\nWhich is better?")
    with s.priority(1):
        better = s.assistant.select(["A", "B"])
    return answers[["A", "B"].index(better)]


@program
def invoice(s, text: str) -> str:
    """Read an invoice by a JSON Schema file, then write its total as a sum that a grammar file allows."""  # noqa: E501
    s.user(f"Read this order as JSON.\n{text}")
    order = s.assistant.gen(schema("../../examples/data/invoice.schema.json"), max_tokens=160)
    names = ""
    for line in order.lines:
        names += f"{line.count} {line.item}. "
    s.user(f"{names}Write their number as a sum.")
    sum_of = s.assistant.gen(grammar("../../examples/data/sum.lark"), max_tokens=24)
    if order.paid:
        return f"{order.customer} has paid for {sum_of}."
    return f"{order.customer} owes for {sum_of}."


@program
def ticket(s, message: str) -> str:
    """File a customer's message: a number by a pattern, how urgent it is, one sentence of an answer."""  # noqa: E501
    s.user(f"A customer writes: {message}\nFile a ticket.")
    with s.assistant:
        s += "Number: "
        number = s.gen(matching("[A-Z]{2}-[0-9]{4}"))
        s += "\nUrgency: "
        urgency = s.select(["low", "normal", "high", "high, call back"], by="greedy")
        s += "\nAnswer: "
        answer = s.gen(max_tokens=32, stop=matching(r"[.!?]|\n"))
    return f"{number}, {urgency}: {answer}"


@program
def second_opinion(s, question: str) -> list[str]:
    """A draft, then a second opinion: from a larger model where there is one, and before other work."""  # noqa: E501
    s.user(question)
    draft = s.assistant.gen(max_tokens=16, stop="\n")
    s.user("Is that right? Answer yes or no.")
    with s.client("openai:http://localhost:8000/v1#large"):
        with s.priority(2):
            right = s.assistant.select(["yes", "no"])
    if right == "yes":
        return [right, draft]
    s.user("Give a better answer.")
    better = s.assistant.gen(max_tokens=16, stop="\n")
    return [right, better]


TWINS = {
    "checked_tool": solve, "panel": panel, "best_draft": write, "surprise": surprise,
    "adapters": compare, "schema_and_grammar": invoice,
    "second_opinion": second_opinion, "ticket": ticket,
}  # fmt: skip
