"""Passes over graph IR."""
