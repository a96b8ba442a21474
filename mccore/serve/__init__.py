"""The server: an OpenAI-compatible endpoint and a page, over conversations that never end."""
