"""Built-in panels of the monitor: the Working Context and what focus does to it."""
