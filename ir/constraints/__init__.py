"""What a constraint lets a model say: automata over bytes, and over a vocabulary's tokens."""
