"""Data only: the four dialects, their one text form, types, spans and diagnostics.

    source.py, diagnostics.py    texts and spans, errors and warnings
    core.py, types.py    values, operations, modules, and their types
    printer.py, parser.py    IR to text and back (text.lark)
    values.py, evaluate.py, numbers.py    host values, and what operations on them mean
    expression.py, schedule.py    what kernels compute with, and how they are scheduled
    model.py, vocabulary.py, budget.py    a checkpoint's shapes, its tokens, a plan's memory
    saved_grammar.py, strict_json.py, whole_file.py    files, read and written with care
    display      how things look, as HTML and in a terminal
    dialects     program, plan, graph, tile: operations and what they hold
    verifier.py  every operation fits its dialect
    constraints  automata and token tables
    sparse       the policy of sparse attention, calibrations, losses
    offload      pipelines of models larger than a GPU, routing, pages

Each room imports itself and those above it (`tests/test_architecture.py`).
"""
