"""Measures trained models; trains nothing."""
