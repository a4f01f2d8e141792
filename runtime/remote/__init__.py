"""A program on a model behind an OpenAI-compatible endpoint: calls, retries, and what it lacks."""
