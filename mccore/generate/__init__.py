"""Generation: prompts, sessions and conversations in, tokens out. Knows no server and no task."""
