"""Program IR to plan IR: streams become KV handles, texts tokens, and gens decodes."""
