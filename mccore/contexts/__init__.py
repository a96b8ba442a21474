"""Saved contexts: built from files, checked, measured."""
