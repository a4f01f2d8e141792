"""The tool of rag.weft: a small store of passages, searched by words."""

import zlib

SUBJECTS = ["river", "bridge", "castle", "market", "museum", "harbour", "school", "garden", "tower"]
FACTS = ["was built long ago by the people of the hill", "is open from spring to autumn",
         "stands beside the old mill", "was named after a sailor who never came home",
         "has a roof of red clay and a floor of stone"]  # fmt: skip


def retrieve(question: str, most: int = 3) -> list[str]:
    """Return passages, the same for the same question."""
    seed = zlib.crc32(question.encode())
    return [passage(seed + 7 * number) for number in range(most)]


def passage(seed: int) -> str:
    """Return one passage of the store."""
    subject, fact = SUBJECTS[seed % len(SUBJECTS)], FACTS[seed // 3 % len(FACTS)]
    more = FACTS[(seed // 5 + 1) % len(FACTS)]
    return f"The {subject} of the town {fact}. It also {more}."
