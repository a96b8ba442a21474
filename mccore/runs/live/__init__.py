"""A run as it goes on: its files followed, its events taken into one state, its curves in bounded memory."""
