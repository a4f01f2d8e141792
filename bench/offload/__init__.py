"""What bench.moe_offload runs: engines, stores, memory caps, disks, variants."""
