"""The tool of tree_of_thoughts.weft."""


def nearest(reached: list[list[int]], target: int) -> int:
    """Return the number nearest to the target, the smaller of two."""
    numbers = [number for ends in reached for number in ends]
    return min(numbers, key=lambda number: (abs(number - target), number))
