"""The attentions that an evaluation compares: a policy, how it attends, and what it has read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..codegen.meaning.graph_reference import Attend
from ..codegen.meaning.sparse_reference import Reads, SparseAttention
from ..compiler.attention import calibration_of
from ..cost_model.sparse_bytes import AttentionShape, tail_bytes
from ..frontend.checkpoints.checkpoint import Checkpoint
from ..ir.sparse.calibration import AttentionCalibration
from ..ir.sparse.policy import SparsePolicy
from ..passes.tile.regimes import GPU_PAGE

KV = "bf16"
"""The format of k and v that loss is drawn against, as on a GPU."""


@dataclass
class Judged:
    """One attention under test: a policy (None: dense) of a model, and what it read so far.

    With `words` it selects as a GPU's kernels do where they keep labels as words: queries rounded
    to bytes, scores compared by steps, in a GPU's pages.
    """

    name: str
    checkpoint: Checkpoint
    policy: SparsePolicy | None
    calibration: AttentionCalibration | None = None
    words: bool = False
    reads: dict[int, Reads] = field(default_factory=dict, init=False)

    def start(self) -> None:
        """Count from nothing again."""
        self.reads = {}

    def attend(self) -> Attend | None:
        """Return what a graph's run attends with; None is dense."""
        if self.policy is None or self.calibration is None:
            return None
        page = GPU_PAGE if self.words else 0
        return SparseAttention(self.policy, self.calibration, self.reads, page, self.words)

    def tokens_share(self) -> float:
        """Return the tokens read over those of the contexts, of sparse layers, since `start`."""
        found = self.reads.values()
        return sum(r.read for r in found) / max(1, sum(r.context for r in found)) if found else 1.0

    def bytes_share(self) -> float:
        """Return bytes (k, v, labels, tails) over dense attention's, over all layers, as bf16."""
        found = self.reads.values()
        if not found or self.policy is None:
            return 1.0
        config, policy = self.checkpoint.config, self.policy
        shape = AttentionShape(config.heads // config.kv_heads, 1, config.head_dim, KV)
        label, tail = policy.label_bytes(config.head_dim), policy.tail != "none"
        each = [
            (r.read * shape.token + r.scored * label + tail * r.rows * tail_bytes(shape))
            / (r.context * shape.token)
            for r in found
        ]
        return (sum(each) + config.layers - len(each)) / config.layers


def judged(
    checkpoint: Checkpoint, policies: list[SparsePolicy | None], file: Path | None = None,
    statistic: str = "qk", words: bool = False,
) -> list[Judged]:  # fmt: skip
    """Return what to compare, dense first; raises ModelError without a fitting calibration, that of
    a `file` of the published layout by one of its statistics. `words`: all select as a GPU does."""
    found = {"dense": Judged("dense", checkpoint, None)}
    for policy in policies:
        if policy is not None:
            calibration = calibration_of(checkpoint, policy, file, statistic)
            found[str(policy)] = Judged(str(policy), checkpoint, policy, calibration, words)
    return list(found.values())
