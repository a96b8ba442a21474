"""MegaContext: the tree of gists, the cut through it that the model sees, and the networks and sessions on top."""
