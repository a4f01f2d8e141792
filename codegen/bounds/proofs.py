"""Bounds proofs of a model's kernels, kept beside the compiled code: z3 runs once a kernel text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...ir.core import Operation
from ...ir.whole_file import write_whole
from ..cache import default_folder
from .prove import BoundsProof, proof_key, prove_bounds


def ensure_proven(kernels: Sequence[Operation], cache: Path | None = None) -> list[BoundsProof]:
    """Return a proof of every kernel, from the cache or made now.

    `cache` is the folder of compiled kernels (default: the user's). Raises UnprovenAccess for the
    first kernel with an access that may leave its buffer.
    """
    folder = (cache or default_folder()) / "proofs"
    return [_proof(kernel, folder) for kernel in kernels]


def _proof(kernel: Operation, folder: Path) -> BoundsProof:
    key = proof_key(kernel)
    file = folder / f"{key}.json"
    try:
        known = BoundsProof.from_json(file.read_text(encoding="utf-8"))
        if known.ok and known.key == key:
            return known
    except (OSError, ValueError, KeyError, TypeError):
        pass  # absent or damaged: proven anew
    proof = prove_bounds(kernel)
    _keep(proof, file)
    return proof


def _keep(proof: BoundsProof, file: Path) -> None:
    """Write a proof so that others see all of it or none; a closed folder only costs the reuse."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, proof.to_json())
    except OSError:
        pass
