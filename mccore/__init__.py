"""mccore: a small language model pipeline with MegaContext."""
