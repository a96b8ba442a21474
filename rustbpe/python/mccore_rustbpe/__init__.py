"""Byte-level BPE trainer in Rust."""
