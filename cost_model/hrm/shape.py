"""What the model of an offloaded mixture-of-experts model knows of it: sizes, bytes, the workload.

Letters as in `ir.dialects.graph`: L layers, D width, H heads, K kv heads, C head width, F ffn,
E experts, V vocabulary; A experts a token. MoE-Lightning calls D h1 and F h2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...ir.diagnostics import ModelError
from ...ir.model import ModelConfig
from ...ir.offload.page_formats import WIDE
from ..binding import weight_bytes


class NoExperts(ModelError):
    """A dense model, of which there is nothing to place by the page."""

    template = "the model has no experts to place: {architecture} is dense"
    hint = "offloading by pages is for mixture-of-experts models, such as random:mixtral-8x7b"


class UnevenPages(ModelError):
    """Experts that cannot be cut into so many pages of one size."""

    template = "an expert's width of {ffn} cannot be cut into {pages} pages of one size"
    hint = "take one of: {divisors}"


class BadWorkload(ModelError):
    """Lengths that no run can have."""

    template = "a workload of {what} {value}"
    hint = "prompts and generated texts have at least one token"


@dataclass(frozen=True)
class Workload:
    """How long the prompts are and how much is generated, in tokens a sequence.

    With `overlap` sequences come and go: each step decodes a token of all, and reads as many tokens
    of prompts beside as keep their number. Then a sequence holds, on the mean, the keys of half its
    run (MoE-Lens, arXiv 2504.09345: (p + g) / (p + g / 2) as many sequences fit).

    `spread` is the mean of squared prompt lengths over the square of their mean: 1 where all are
    alike, 2 where they are drawn exponentially. Attention over prompts grows with it.
    """

    prompt: float
    """The mean over sequences."""
    new: int
    overlap: bool = False
    spread: float = 1.0

    def __post_init__(self) -> None:
        for what, value in (("prompts of", self.prompt), ("generated tokens:", self.new)):
            if not 1 <= value < float("inf"):
                raise BadWorkload(what=what, value=value)

    @property
    def prompt_context(self) -> float:
        """Keys that a token of a prompt sees on the mean: half of its sequence's."""
        return self.prompt * self.spread / 2

    @property
    def mean_context(self) -> float:
        """Keys of a sequence in the mean decode step: the prompt and half of what is generated."""
        return self.prompt + self.new / 2

    @property
    def held_context(self) -> float:
        """Keys of a sequence for which there must be room, on the mean over sequences."""
        return self.mean_context if self.overlap else self.full_context

    @property
    def beside(self) -> float:
        """Rows of prompts that a step has for each token that it decodes."""
        return self.prompt / self.new if self.overlap else 0.0

    @property
    def steps(self) -> int:
        """Steps that a sequence's tokens take, after its prompt was read apart or beside others."""
        return self.new if self.overlap else self.new - 1

    @property
    def full_context(self) -> float:
        """Keys of a sequence at the end of its run, on the mean over sequences."""
        return self.prompt + self.new


@dataclass(frozen=True)
class MoeShape:
    """Sizes of a mixture-of-experts decoder, and the formats of its weights and KV."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    experts: int
    top_k: int
    vocabulary: int
    tied: bool = False
    page_format: str = "bf16"
    element: int = 2
    """Bytes of an element of activations and of weights outside of pages."""
    kv_element: int = 0
    """Bytes of an element of keys and values; 0: as of activations."""
    host_element: int = 4
    """Bytes of an element of activations beside the CPU: its kernels read and write f32."""

    @staticmethod
    def of(config: ModelConfig, page_format: str = "bf16", kv_element: int = 0) -> MoeShape:
        """Return the shape of a configuration; raises NoExperts.

        `kv_element`: bytes of an element of keys and values, 0: as of activations. The runtime
        keeps them so unless it is told otherwise (`loading.kv_dtype`).
        """
        if not config.experts:
            raise NoExperts(architecture=config.architecture)
        return MoeShape(
            config.layers, config.width, config.heads, config.kv_heads, config.head_dim,
            config.ffn, config.experts, config.experts_per_token, config.vocab_size, config.tied,
            page_format, 4 if page_format == "f32" else 2, kv_element,
        )  # fmt: skip

    @property
    def qkv_width(self) -> int:
        """Elements of q, k and v of a token."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def expert_bytes(self) -> float:
        """Bytes of one expert: gate and up [2F, D], down [D, F]."""
        up = weight_bytes(2 * self.ffn, self.width, self.page_format)
        return up + weight_bytes(self.width, self.ffn, self.page_format)

    @property
    def layer_bytes(self) -> float:
        """W_L: bytes of a layer's experts."""
        return self.experts * self.expert_bytes

    @property
    def attention_bytes(self) -> float:
        """Bytes of a layer's projections: q, k, v [., D] and o [D, .]."""
        own = self.heads * self.head_dim
        return float(self.element * self.width * (self.qkv_width + own))

    @property
    def router_bytes(self) -> float:
        """Bytes of a layer's router [E, D], which stays f32: it decides."""
        return 4.0 * self.experts * self.width

    @property
    def head_bytes(self) -> float:
        """Bytes of the output projection [V, D]."""
        return float(self.element * self.vocabulary * self.width)

    @property
    def dense_bytes(self) -> float:
        """Bytes that always lie in GPU memory: projections, routers, embedding, head, norms."""
        tables = self.head_bytes * (1 if self.tied else 2)
        norms = self.element * self.width * (2 * self.layers + 1)
        return self.layers * (self.attention_bytes + self.router_bytes) + tables + norms

    @property
    def kv_token_bytes(self) -> float:
        """Bytes of keys and values of one token in one layer."""
        element = self.kv_element or self.element
        return float(2 * self.kv_heads * self.head_dim * element)

    def page_bytes(self, pages_per_expert: int) -> float:
        """Return the bytes of a page; raises UnevenPages where F has no such divisor."""
        if pages_per_expert < 1 or self.ffn % pages_per_expert:
            divisors = [n for n in range(1, 65) if self.ffn % n == 0]
            raise UnevenPages(
                ffn=self.ffn, pages=pages_per_expert, divisors=", ".join(map(str, divisors))
            )
        return self.expert_bytes / pages_per_expert

    def gpu_page_bytes(self, pages_per_expert: int) -> float:
        """Return the bytes of a page in GPU memory: some formats are widened where it arrives."""
        wide = replace(self, page_format=WIDE.get(self.page_format, self.page_format))
        return wide.page_bytes(pages_per_expert)

    def touched(self, tokens: float) -> float:
        """Return the share of experts that T tokens use under uniform routing: 1 - (1 - A/E)^T."""
        return 1.0 - (1.0 - min(1.0, self.top_k / self.experts)) ** tokens
