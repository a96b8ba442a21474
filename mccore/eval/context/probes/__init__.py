"""Questions about histories whose answers are known: what a memory of any length has to recall."""
