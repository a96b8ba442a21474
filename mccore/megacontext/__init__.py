"""MegaContext: the tree of gists, cuts, focus, its training and its sessions."""
