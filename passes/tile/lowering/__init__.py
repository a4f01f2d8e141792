"""From the graph dialect to tile kernels: which kernel an operation becomes, and its arguments."""
