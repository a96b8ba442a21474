"""Data sets of the Hugging Face hub: found by name, fetched once, checked, and shared by all runs of a machine."""
