"""Text to token batches: corpora, conversations, the tokenizer. Knows no model."""
