"""Graph IR to tile IR: the kernels and their schedules.

    builder.py   what writes a kernel's operations; meeting.py, where programs of one wait
    rows         elementwise, rotation, tokens fed, constraints, sampling
    attention    dense attention over paged keys: parts, joins, prompts, ways to read
    products     matrix products: of many rows, of one, scaled, of experts
    selection    keys chosen by labels: scores, counts, bins, tails
    sparse       attention over chosen keys, and what holds these
    lowering     which kernel an operation of the graph becomes, and its arguments
    gpu_schedules.py, candidates.py    schedules, and those that a search may try
    regimes.py, sections.py    a step's kernels by its size, and in sections
    given.py     what kernels may read before they wait for each other

Each room imports itself and those above it (`tests/test_architecture.py`).
"""
