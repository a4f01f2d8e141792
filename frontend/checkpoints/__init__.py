"""What compilation reads of a checkpoint: its tokenizer, its chat template, its configuration."""
