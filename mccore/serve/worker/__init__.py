"""The model's side of the server, a process of its own: sessions, reading, decoding."""
