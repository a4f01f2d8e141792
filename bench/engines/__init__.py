"""Engines beside weft on a CPU, each in a process of its own, and the checkpoints they load."""
