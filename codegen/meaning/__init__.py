"""The meaning of graph and tile operations, in NumPy and torch: the oracle of kernels."""
