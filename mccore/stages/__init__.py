"""What each stage of a run puts together, in which order."""
