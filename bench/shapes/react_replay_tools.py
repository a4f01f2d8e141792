"""The tools of react_replay.weft: a recorded trace, told again."""


def recorded(question: str, step: int) -> str:
    """Return the thought and the action that were recorded for a step."""
    topic = question.removesuffix("?").split()[-1]
    return (
        f"I need to look up the {topic} again, part {step}.\nAction {step}: Search[{topic} {step}]"
    )


def observed(action: str) -> str:
    """Return what a search gave."""
    found = action.partition("[")[2].removesuffix("]")
    return f"The page of the {found} says that it is old, that it is near the lake, and no more."
