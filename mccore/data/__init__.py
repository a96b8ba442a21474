"""Text and conversations into token batches: corpora, tokenizer, loaders."""
