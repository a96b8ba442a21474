"""From a recipe and what a user typed to the one configuration that a run is."""
