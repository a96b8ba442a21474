"""Kernels: each with its plain reference and its fast form."""
