"""Questions with known answers: for mixtures, evaluation and reward. Knows no model."""
