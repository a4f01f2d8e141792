"""The tool of retry.weft."""


def fault(number: int, low: int, high: int) -> str:
    """Return what is wrong with a number, or an empty text."""
    if number < low:
        return f"Error: {number} is too small. The limit is {low}. Try again."
    if number > high:
        return f"Error: {number} is too large. The limit is {high}. Try again."
    return ""
