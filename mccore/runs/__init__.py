"""A run is a directory: this is how it is created, listed, locked and read. No torch."""
