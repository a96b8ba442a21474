"""HTTP over conversations: OpenAI's endpoints, sessions of our own, the page."""
