"""GistNet, LensNet and what they are made of."""
