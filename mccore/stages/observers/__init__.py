"""What watches a training stage: each a small thing with its own state, which the loop calls in turn."""
