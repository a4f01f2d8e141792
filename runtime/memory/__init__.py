"""Paged KV memory, sequences, and the tree of prefixes that stay in it."""
