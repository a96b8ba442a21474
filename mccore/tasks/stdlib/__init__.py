"""Tasks made from the standard library, without a network."""
