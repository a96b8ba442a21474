"""Built-in tree storage backends for mccore."""
