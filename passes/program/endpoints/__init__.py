"""What an endpoint can do of a program, in how many calls."""
