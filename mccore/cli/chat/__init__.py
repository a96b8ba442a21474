"""The command `mccore chat`."""
