"""Screens that are read: help, comparison, report."""
