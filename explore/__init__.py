"""`weft explore`: one page that shows a compilation, from the program's text to machine code."""
