"""How well a model does under an attention policy: perplexity, retrieval, needles, tasks."""
