"""Sessions: a history of any length behind a model, kept on disk."""
