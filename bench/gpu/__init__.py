"""What the GPU figures share: attention, prompts, vendor kernels, workloads, a timed device."""
