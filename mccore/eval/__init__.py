"""How good a model is: bits per byte, held-out questions, samples. Every figure comes with its n and its standard error."""
