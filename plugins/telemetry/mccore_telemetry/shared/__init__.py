"""What the providers of this package have in common; nothing outside it imports this."""
