"""Text out of a trained model: cached generation, the calculator tool and the terminal chat's session."""
