"""Training contexts and their losses."""
