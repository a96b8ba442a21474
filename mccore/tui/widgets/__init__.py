"""Widgets that draw what the pure modules of this room compute."""
