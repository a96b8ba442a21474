"""Token files, rows and batches."""
