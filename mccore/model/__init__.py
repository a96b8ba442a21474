"""The GPT, its key/value cache and its optimizer. Nothing here knows of MegaContext."""

from mccore.model.gpt import GPT
from mccore.model.kv_cache import CacheFull, KVCache

__all__ = ["GPT", "CacheFull", "KVCache"]
