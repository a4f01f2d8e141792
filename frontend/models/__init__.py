"""From a Hugging Face folder to graph IR: one file per architecture."""
