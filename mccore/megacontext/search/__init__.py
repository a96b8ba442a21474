"""Exact search of a history for what the newest tokens ask for."""
