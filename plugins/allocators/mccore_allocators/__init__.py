"""Built-in focus allocators for mccore."""
