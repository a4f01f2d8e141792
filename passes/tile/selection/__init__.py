"""Kernels that choose keys by labels: scores, counts, bins, tails."""
