"""Events on their way out: to the file at once, to providers in the background."""
