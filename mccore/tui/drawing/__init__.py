"""Plots and characters: pure functions that are tested without a terminal."""
