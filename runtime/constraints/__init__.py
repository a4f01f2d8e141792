"""What may come next in a text: tables, grammars, stop strings, healing, and who watches it."""
