"""How much memory a program needs at most, and when each stretch of its KV is read last."""
