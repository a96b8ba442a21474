"""Training: one loop for every stage, its ranks and its checkpoints."""
