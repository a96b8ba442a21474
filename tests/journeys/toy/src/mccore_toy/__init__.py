"""One plugin of each kind, by somebody else."""
