"""From .weft text to the AST: grammar, parser, and named errors for what it cannot read."""
