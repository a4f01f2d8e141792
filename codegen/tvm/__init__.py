"""Tile kernels as TVMScript: emitted by what a value, a lane or a loop is."""
