"""`calibrate_attention`: runs a text through a model and chooses the channels of its labels."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from ..codegen.measure.observe_attention import AttentionObserver
from ..frontend.checkpoints.checkpoint import Checkpoint
from ..ir.sparse.calibration import AttentionCalibration, Provenance
from .subject import BadText, Subject, read_text

BLOCK = 2048
"""Tokens of a sequence: so long, that channels which turn slowly show how far they move."""
FEWEST = 64


def calibrate_attention(
    checkpoint: Checkpoint, text: Path, tokens: int = 8192, statistic: str = "centred",
    device: str = "cpu",
) -> AttentionCalibration:  # fmt: skip
    """Return the calibration from the first `tokens` tokens of a text, in blocks, all counted.

    Raises BadText where it has fewer than 64 tokens, and ModelError of the checkpoint.
    """
    content = read_text(text)
    ids = checkpoint.tokenizer.encode(content)[:tokens]
    if len(ids) < FEWEST:
        raise BadText(file=str(text), problem=f"has {len(ids)} tokens, too few to calibrate on")
    subject, observer = Subject(checkpoint, device), AttentionObserver()
    start = [part for part in checkpoint.chat.start() if isinstance(part, int)]
    block = min(BLOCK, checkpoint.config.context_length) - len(start)
    for at in range(0, len(ids), block):
        subject.whole([*start, *ids[at : at + block]], observer, logits=False)
    origin = Provenance(
        model=checkpoint.identity, name=checkpoint.name,
        text=sha256(content.encode()).hexdigest(), statistic=statistic,
        date=datetime.now(UTC).date().isoformat(),
    )  # fmt: skip
    return observer.chosen(origin)
