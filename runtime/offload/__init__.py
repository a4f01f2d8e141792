"""Models larger than the GPU: pages of experts, a ring, queues, and the executor over them."""
