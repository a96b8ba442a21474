"""The tokenizer, its file formats, and conversations as token ids."""
