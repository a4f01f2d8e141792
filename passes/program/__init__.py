"""Passes over program IR and plan IR."""
