"""Programs with and without constraints, and random schemas, for bench.constrained."""
