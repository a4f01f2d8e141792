"""From text and checkpoints to IR: two surfaces, one AST, and the builders of models.

    models       from a checkpoint's configuration to the graph dialect
    checkpoints  a checkpoint's tokenizer, chat template, configuration
    ast.py, ast_dump.py, faults.py    the AST of both surfaces, and what a check does with an error
    text         .weft text to AST: grammar, parser, named syntax errors
    unparse.py   the AST as .weft text again
    semantics    names, types, constants, effects, and their checks
    python       Python functions to AST: `@program`, `@tool`
    lowering     a checked AST to the program dialect
    open.py      opens a program wherever it is

Each room imports itself and those above it (`tests/test_architecture.py`). `ignored.py` tells what
a program asks for and its model cannot do.
"""
