"""Built-in recipes for mccore."""
