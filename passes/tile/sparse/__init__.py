"""Kernels of attention over chosen keys, and what holds these keys."""
