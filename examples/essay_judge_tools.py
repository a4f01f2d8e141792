"""The tool of essay_judge.weft."""


def word_count(text: str) -> int:
    """Return the number of words."""
    return len(text.split())
