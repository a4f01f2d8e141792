"""Source and binary: tile IR to Triton and TVM text, compiled and cached; and its meaning."""
