"""Tile kernels as Triton files: emitted, compiled, loaded, launched."""
