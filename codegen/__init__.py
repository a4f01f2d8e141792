"""Source and binary: tile IR to Triton and TVM text, compiled and cached; and its meaning.

kernel.py, addresses.py    what the runtime sees: kernels, and what launches take
triton, tvm                the two emitters, with what compiles and loads Triton files
build.py, build_cuda.py    binaries of a CPU and of a GPU; cache.py, table_cache.py keep them
bounds                     proofs that every access is inside its buffer
meaning                    the oracle: graph and tile operations in NumPy and torch
measure                    what a machine does, and the search among schedules
locate.py, locate_assembly.py    which operation each line of a text comes from
"""
