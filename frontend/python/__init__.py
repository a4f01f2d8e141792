"""From Python functions to the AST: the surface of `@program` and `@tool`."""
