"""Checkpoints on disk: safetensors and JSON."""
