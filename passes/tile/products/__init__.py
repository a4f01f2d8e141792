"""Kernels of matrix products: of many rows, of one, scaled, of experts."""
