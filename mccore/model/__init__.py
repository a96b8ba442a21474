"""The GPT, its key/value cache and its optimizer. Nothing here knows of MegaContext."""

from mccore.model.gpt import GPT
from mccore.model.kv_cache import CacheFull, KVCache
from mccore.model.optim.optimizer import Group, Optimizer, build_optimizer
from mccore.model.schedule import Schedule, schedule

__all__ = ["GPT", "CacheFull", "Group", "KVCache", "Optimizer", "Schedule", "build_optimizer", "schedule"]
