"""How things look: one description of what to show, drawn as HTML with SVG and in the terminal."""
