"""Prices: FLOPs and bytes of operations, rooflines, calibration and reports."""
