"""Every performance figure's command; run them as `python -m bench.cpu` and the like."""
