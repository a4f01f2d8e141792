"""Proofs that every access of a kernel is inside its buffer."""
