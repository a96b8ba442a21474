"""What sessions look up in their own history, and how much that was learned to say."""
