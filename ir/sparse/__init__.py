"""Sparse attention as data: its policy, what calibration knows of keys, what policies lose."""
