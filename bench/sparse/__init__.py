"""What bench.sparse_speed runs: steps, keys across a link, calibration."""
