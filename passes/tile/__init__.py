"""Graph IR to tile IR: the kernels and their schedules."""
