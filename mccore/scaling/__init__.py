"""Arithmetic of a run: widths, batches, steps, FLOPs, memory, cost. Nothing is loaded or measured."""
