"""What Working Contexts are worth: conditions on the same rows, streams, long histories, recall."""
