"""What a program means before it is lowered: names, types, constants, effects, and their checks."""
