"""The tree of tokens and gists, and cuts through it."""
