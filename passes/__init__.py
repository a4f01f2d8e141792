"""Rewriting: the pass manager and the passes of each dialect."""
