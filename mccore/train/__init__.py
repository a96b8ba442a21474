"""The training loop. What is trained is handed in; it knows no MegaContext."""
