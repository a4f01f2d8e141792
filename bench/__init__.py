"""Every performance figure's command; run them as `python -m weft.bench.cpu` and the like."""
