"""Models in and out of the formats of others: exact, or refused by name."""
