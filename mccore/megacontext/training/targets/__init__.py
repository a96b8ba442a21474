"""What LensNet is taught."""
