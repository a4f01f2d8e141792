"""What prompts of a program and batch share, found before anything runs."""
