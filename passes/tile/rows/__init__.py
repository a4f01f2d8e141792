"""Kernels that go over rows: elementwise, rotation, tokens fed, constraints, sampling."""
