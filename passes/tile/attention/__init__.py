"""Kernels of dense attention over paged keys: parts, joins, prompts, and ways to read."""
