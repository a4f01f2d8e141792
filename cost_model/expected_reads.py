"""How many tokens of a context a policy is expected to read, where its scores decide how many.

`SparsePolicy.budget` is the most that it may read, by which memory is sized; a price is of what it
is expected to. What a model was measured to read goes first (`weft evaluate --save`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.sparse.policy import SparsePolicy
from .sparse_bytes import AttentionShape

TOP_P = (0.046, -0.65)
THRESHOLD = (0.023, -0.5)
"""The share of tokens a * x^b that texts take: of top_p with x = 1 - top_p, of a threshold with x
as it is. Of zoo/heldout.txt, 1 to 2 K tokens of context and labels of 32 channels in 4 bits,
tiny-dense and tiny-moe read 0.061 and 0.059 at top_p=0.5, 0.137 and 0.134 at 0.8, 0.306 and 0.310
at 0.95; 0.073 and 0.070 at threshold=0.1, 0.231 and 0.223 at 0.01 (`weft evaluate`)."""


@dataclass(frozen=True)
class Expected:
    """The share of a context that an adaptive policy reads: `measured` of the model, or of others
    (TOP_P, THRESHOLD)."""

    share: float
    measured: bool = False

    @staticmethod
    def of(policy: SparsePolicy, share: float = 0.0) -> Expected | None:
        """Return what an adaptive policy is expected to read, `share` if that is known; None of a
        policy that reads its whole budget."""
        if not policy.adaptive:
            return None
        a, b = TOP_P if policy.top_p else THRESHOLD
        x = 1 - policy.top_p if policy.top_p else policy.threshold
        usual = a * x**b if x > 0 else 1.0
        return Expected(min(share or usual, policy.cap, 1.0), bool(share))

    def __str__(self) -> str:
        of = "this model" if self.measured else "the shipped models, as nobody did of this one"
        return f"expected to read {self.share:.1%} of the tokens, as measured of {of}"


LEAST_SHARE = 1e-6
"""A measured share is never 0, which says that none is known."""


def expected_tokens(policy: SparsePolicy, context: int, share: float = 0.0) -> float:
    """Return how many tokens of a context are expected to be read, `share` of it if that is known,
    and never more than the policy's budget."""
    found, most = Expected.of(policy, share), policy.budget(context)
    if found is None or policy.reads_whole(context):
        return float(most)
    return min(float(most), max(found.share * context, policy.sinks + policy.recent + 1.0))


def measured_share(
    policy: SparsePolicy, bytes: float, head_dim: int, layers: int, dense: int = 0
) -> float:
    """Return the share of tokens read by a policy whose bytes in all layers, of which `dense` read
    everything, were that share of dense attention's of bf16 (`ir.sparse.loss_table`)."""
    sparse = layers - dense
    if not sparse:
        return 1.0
    label = policy.label_bytes(head_dim) / AttentionShape(1, 1, head_dim, "bf16").token
    return min(1.0, max((bytes * layers - dense) / sparse - label, LEAST_SHARE))
