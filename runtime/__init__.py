"""Running: the engine, paged KV, the scheduler, sampling, and the reference interpreter."""
