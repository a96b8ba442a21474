"""What was said in every conversation, and which conversation a list of messages goes on with."""
