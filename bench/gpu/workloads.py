"""Workloads of serving engines as weft programs: exact lengths in tokens, their floors in seconds.

Lengths are those of the shared comparison (docs: bench/README.md): W1 unshared requests, W2 one
shared prefix, W3 a tree of two levels, W4 a single request. Texts are random words of one token.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from weft.ir.model import ModelConfig

PLAIN = """program plain(text: str, more: str) -> str:
    "{{text}}{{more}}"
    gen answer(max_tokens={new})
    return answer
"""

TREE = """program tree(root: str, owns: list[str]) -> str:
    "{{root}}"
    fork own in owns as answers:
        "{{own}}"
        gen answer(max_tokens={new})
        yield answer
    return ""
"""


@dataclass(frozen=True)
class Workload:
    """`groups` prompts of `shared` tokens, each continued `width` times by `own` tokens and `new`
    generated ones."""

    name: str
    text: str
    groups: int
    width: int
    shared: int
    own: int
    new: int

    @property
    def program(self) -> str:
        """The program's source."""
        return self.text.format(new=self.new)

    @property
    def generated(self) -> int:
        """Tokens that are generated."""
        return self.groups * self.width * self.new

    @property
    def prompt_tokens(self) -> int:
        """Tokens that must be computed before generating, each shared one once."""
        return self.groups * (self.shared + self.width * self.own)

    def rows(self, words: Words, seed: int) -> list[dict[str, Any]]:
        """Return the program's rows; another seed gives other words."""
        pick = random.Random(f"{self.name} {seed}")
        if self.text is TREE:
            return [
                {"root": words.text(pick, self.shared),
                 "owns": [words.text(pick, self.own) for _ in range(self.width)]}
                for _ in range(self.groups)
            ]  # fmt: skip
        rows = []
        for _ in range(self.groups):
            shared = words.text(pick, self.shared)
            for _ in range(self.width):
                rows.append({"text": shared, "more": words.text(pick, self.own)})
        return rows

    def floor(self, config: ModelConfig, flops: float, bandwidth: float) -> float:
        """Return seconds that no engine beats: products at their rate, then a step a token that
        reads the weights and every key once (a shared one once for all)."""
        dense = config.parameters - config.vocab_size * config.width * (1 if config.tied else 2)
        head = config.vocab_size * config.width
        attention = 2 * config.layers * config.heads * config.head_dim
        seen = self.groups * (
            self.shared**2 + self.width * self.own * (2 * self.shared + self.own)
        )  # twice the pairs of a query and a key
        compute = 2 * dense * self.prompt_tokens + attention * seen
        key = 4 * config.layers * config.kv_heads * config.head_dim
        alive = self.groups * (self.shared + self.width * (self.own + self.new / 2))
        step = (2 * (dense + head) + key * alive) / bandwidth
        return compute / flops + self.new * step


WORKLOADS = {
    "w1": Workload("w1", PLAIN, 128, 1, 0, 512, 128),
    "w2": Workload("w2", PLAIN, 1, 128, 2048, 64, 64),
    "w3": Workload("w3", TREE, 8, 16, 1024, 32, 64),
    "w4": Workload("w4", PLAIN, 1, 1, 0, 128, 256),
}


def read_bytes(config: ModelConfig, batch: int, element: float = 2.0) -> float:
    """Return the bytes of weights that a decode step of `batch` sequences reads, embedding rows
    aside: of experts those that its tokens touch under uniform routing."""
    experts = 3 * config.layers * config.width * config.ffn * config.experts
    table = 0 if config.tied else config.vocab_size * config.width
    touched = 0.0
    if config.experts:
        share = config.experts_per_token / config.experts
        touched = experts * (1.0 - (1.0 - share) ** batch)
    return element * (config.parameters - table - experts + touched)


class Words:
    """Words that are one token each, with a space before them, wherever they stand."""

    def __init__(self, tokenizer: Any) -> None:
        texts = (tokenizer.decode([id]) for id in range(tokenizer.size))
        words = [text for text in texts if text[:1] == " " and text[1:].isalpha()]
        self._tokenizer = tokenizer
        self.words = [word for word in words if len(tokenizer.encode(word + word)) == 2]

    def text(self, pick: random.Random, tokens: int) -> str:
        """Return a text of so many tokens."""
        text = "".join(pick.choices(self.words, k=tokens))
        assert len(self._tokenizer.encode(text)) == tokens, "a word is no token of its own"
        return text


RECORDED = {
    "w1": 128 * 128 / 2210.0, "w2": 1.706, "w3": 4.641, "w4": 256 / 116.2,
}  # fmt: skip
"""Seconds of transformers 5.17 on an H200, recorded 2026-11-22: static cache compiled with CUDA
graphs in batches of 64 (W1) and 1 (W4), continuous batching with FlashAttention-3 (W2, W3)."""


def median(values: Sequence[float]) -> float:
    """Return the middle of some values."""
    return sorted(values)[len(values) // 2]
