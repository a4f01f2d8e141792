"""The programs of examples/*.weft as Python functions: the same meaning, so the same IR text."""

# ruff: noqa: B006, F841
from dataclasses import dataclass
from typing import Annotated, Literal

from weft.frontend.python.embedded import between, limit, program, tool


@dataclass
class Customer:
    name: Annotated[str, limit(max_tokens=8)]
    city: Annotated[str, limit(max_tokens=8)]


@dataclass
class Item:
    item: Annotated[str, limit(max_tokens=8)]
    count: Annotated[int, between(1, 20)]


@dataclass
class Order:
    customer: Customer
    items: Annotated[list[Item], limit(max_items=4)]


@tool(timeout=2)
def calc(expression: str) -> str:
    return expression


@tool
def vote(answers: list[int]) -> int:
    return answers[0]


@tool
def nearest(reached: list[list[int]], target: int) -> int:
    return reached[0][0]


@tool
def fault(number: int, low: int, high: int) -> str:
    return ""


@program
def classify(s, review: str) -> str:
    """Classify reviews by a few examples; all rows of a batch share the prompt's beginning."""
    with s.user:
        s += "Classify each review.\n\n"
        s += "Review: The film was wonderful.\nSentiment: positive\n\n"
        s += "Review: This meal is not lovely.\nSentiment: negative\n\n"
        s += "Review: The hotel was not boring.\nSentiment: positive\n\n"
        s += f"Review: {review}\nSentiment:"
    sentiment = s.assistant.select(["positive", "negative"])
    return sentiment


@program
def extract(s, text: str) -> Order:
    """Read an order out of a sentence, into nested records."""
    s.system("You extract records from text.")
    s.user(f"Extract the order as JSON.\n{text}")
    order = s.assistant.gen(Order)
    return order


@program
def chat(s, messages: list[str]) -> list[str]:
    """A conversation: one reply a message, each seeing all before it."""
    s.system("You are a friendly assistant.")
    replies: list[str] = []
    for message in messages:
        s.user(message)
        reply = s.assistant.gen(max_tokens=24)
        replies += [reply]
    return replies


@program
def react(s, question: str) -> str:
    """Answer a question with a calculator: act, observe, and act again until there is an answer."""
    s.system(
        "You can use calc. Write Action: calc(...), read the Observation, then write the Answer."
    )
    s.user(question)
    answer = ""
    with s.assistant:
        while answer == "" and s.up_to(5):
            step = s.gen(max_tokens=24, stop="\n")
            if step.startswith("Action: calc(") and step.endswith(")"):
                expression = step.removeprefix("Action: calc(").removesuffix(")")
                s += f"\nObservation: {calc(expression)}\n"
            elif step.startswith("Answer: "):
                answer = step.removeprefix("Answer: ")
            else:
                s += "\n"
    return answer


@program
def solve(s, question: str) -> int:
    """Reason several times, and take the answer that most chains reach."""
    s.user(f"{question} Think step by step.")

    @s.fork(5)
    def answers(s):
        with s.assistant:
            steps = s.gen(max_tokens=40, stop="\n", temperature=0.8, seed=7)
            s += "\nAnswer: "
            answer = s.gen(int)
        return answer

    return vote(answers)


@program
def reach(s, number: int, target: int, first_steps: list[str] = ["+10", "+5", "-5"]) -> int:
    """Search for a target number: each first step is tried, and from each of them two second steps."""  # noqa: E501
    s.user(f"Number: {number}. Target: {target}. Allowed: +1, +5, +10, -1, -5, -10.\nNext step?")

    @s.fork(first_steps)
    def reached(s, first):
        with s.assistant:
            s += f"Next step: {first}\nNumber: "
            middle = s.gen(between(-100, 100))
        s.user(
            f"Number: {middle}. Target: {target}. Allowed: +1, +5, +10, -1, -5, -10.\nNext step?"
        )

        @s.fork(2)
        def ends(branch):
            with branch.assistant:
                branch += "Next step: "
                second = branch.gen(
                    Literal["+1", "+5", "+10", "-1", "-5", "-10"], temperature=0.7, seed=1
                )
                branch += "\nNumber: "
                end = branch.gen(Annotated[int, between(-100, 100)])
            return end

        return ends

    return nearest(reached, target)


@program
def summarize(s, text: str) -> str:
    """Skeleton of thought: list the points first, then write them out in parallel."""
    s.user(f"List the points of this text.\n{text}")
    skeleton = s.assistant.gen(max_tokens=48)

    @s.fork(skeleton.splitlines())
    def sentences(s, point):
        s.user(f"Write one sentence for this point: {point.removeprefix('- ')}")
        sentence = s.assistant.gen(max_tokens=20, stop="\n")
        return sentence

    return " ".join(sentences)


@program
def pick(s, low: int, high: int) -> int:
    """Try again with the checker's words in view, until it finds no fault or the tries are used up."""  # noqa: E501
    s.user("Give a number.")
    number = s.assistant.gen(between(0, 999))
    problem = fault(number, low, high)
    while problem != "" and s.up_to(3):
        s.user(problem)
        number = s.assistant.gen(between(0, 999))
        problem = fault(number, low, high)
    return number


@program
def compare(s, one: str, two: str) -> str:
    """Compare two reviews in both orders, so that a liking for the first place cancels out."""

    @s.fork([False, True])
    def votes(s, swapped):
        first = one
        second = two
        if swapped:
            first = two
            second = one
        s.user(f"A: {first}\nB: {second}\nWhich is better, A or B?")
        better = s.assistant.select(["A", "B"])
        return (better == "A") != swapped

    if votes[0] and votes[1]:
        return "one"
    if not votes[0] and not votes[1]:
        return "two"
    return "tie"


TWINS = {
    "few_shot": classify, "extract": extract, "chat": chat, "react": react,
    "self_consistency": solve, "tree_of_thoughts": reach, "skeleton": summarize, "retry": pick,
    "pairwise": compare,
}  # fmt: skip
