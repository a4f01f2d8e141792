"""Running: the engine, paged KV, the scheduler, sampling, and the reference interpreter.

Its rooms, each of which imports those above it only (`tests/test_architecture.py` holds that):

    tracing      what a run did and when
    devices      the machine as it is found: devices, memory under a cap, streams, recorded launches
    memory       paged KV, sequences, the tree of prefixes
    execution    executors of lowered graphs, and what they share: steps, recipes, weights, samplers
    attention    a step's attention lists
    constraints  what may come next in a text, and who watches it
    schedule     what the next step computes and for whom
    gpu          the executor of a GPU
    offload      models that are partitioned between CPU and GPU
    engine.py    the step loop
    programs     program instances: plans interpreted, values, tools
    session.py, rows.py, executable.py    rows in flight, runs with a journal, a compiled program
    remote       models behind endpoints

`reference.py` is the oracle, `simulator.py` a model without weights.
"""
