"""The policy of an offloaded mixture-of-experts model: batch, placement of each page, pipeline.

The tuple (N, micro-batch, A_g, F_g, r_w, r_c) of MoE-Lightning (ASPLOS 2025, table 1), made exact:
weights are placed by the page, so that no ratio is rounded away, and each expert may be divided
between processors (`placement` says what a page is).
"""

from __future__ import annotations

from dataclasses import dataclass

from .placement import ON_GPU, Home, Placement
from .policy_checks import check


@dataclass(frozen=True)
class Policy:
    """How a mixture-of-experts model is run when it does not fit the GPU.

    batch            N, sequences that decode together
    micro_batch      sequences of one micro-batch; the last one may be smaller
    attention        "cpu" (KV stays in host memory) or "gpu" (A_g = 1)
    layers           the placement of each layer's pages
    experts          experts a layer
    pages_per_expert S, slices of an expert's hidden width
    ring             page slots in GPU memory that streamed pages pass through
    lead             micro-batches that pre-attention and attention run ahead of post-attention
    kv_gpu           r_c, the share of KV pages that lie in GPU memory
    schedule         the pipeline: "ring", "cgo" (CGOPipe), or "s2", "s3", "s4" to compare with
    page_format      element format of pages; bf12 is bf16 in twelve bits, int8 and int4 are lossy
    prefill_tokens   tokens of one prefill chunk on the GPU; 0: a micro-batch's whole prompts
    overlap          prompts are read beside decode, at most `prefill_tokens` of them in a step
    """

    batch: int
    micro_batch: int
    attention: str
    layers: tuple[Placement, ...]
    experts: int
    pages_per_expert: int
    ring: int
    lead: int = 2
    kv_gpu: float = 0.0
    schedule: str = "ring"
    page_format: str = "bf16"
    prefill_tokens: int = 0
    overlap: bool = False

    def __post_init__(self) -> None:
        check(self)

    @property
    def micro_batches(self) -> int:
        """n_ub: micro-batches of one step."""
        return -(-self.batch // self.micro_batch)

    @property
    def pages_per_layer(self) -> int:
        """Pages of one layer's experts."""
        return self.experts * self.pages_per_expert

    @property
    def widest(self) -> int:
        """The most pages that a layer passes through the ring."""
        return max(len(layer.ringed) for layer in self.layers)

    def micro_batch_sizes(self) -> tuple[int, ...]:
        """Return the sequences of each micro-batch, in order; their sum is the batch."""
        full, rest = divmod(self.batch, self.micro_batch)
        return (self.micro_batch,) * full + ((rest,) if rest else ())

    def pages_of(self, expert: int) -> range:
        """Return the page numbers of an expert."""
        return range(expert * self.pages_per_expert, (expert + 1) * self.pages_per_expert)

    def gpu_fraction(self, layer: int, expert: int) -> float:
        """Return F_g of one expert: the share of its pages that the GPU computes."""
        homes = [self.layers[layer].home(page) for page in self.pages_of(expert)]
        return sum(home in ON_GPU for home in homes) / len(homes)

    def share(self, *homes: Home) -> float:
        """Return the share of all pages that have one of these homes; r_w is share(RESIDENT)."""
        pages = sum(len(layer.pages(*homes)) for layer in self.layers)
        return pages / (len(self.layers) * self.pages_per_layer)
