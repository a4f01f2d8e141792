"""Kernels whose warps have parts of their own, as Gluon: some copy, others compute."""
