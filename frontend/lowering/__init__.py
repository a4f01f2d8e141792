"""From a checked AST to the program dialect."""
