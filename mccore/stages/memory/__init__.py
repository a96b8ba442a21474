"""What the Working Contexts of trained runs are worth, on text and on questions that a memory is for."""
