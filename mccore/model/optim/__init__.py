"""Muon and AdamW."""
