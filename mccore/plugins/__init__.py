"""Plugins by name: list them without importing any, load one, build it."""

from mccore.plugins.loading import build, builder, check, contained, load, read_options
from mccore.plugins.registry import (
    DISABLE_VARIABLE,
    KINDS,
    Kind,
    KindName,
    Plugin,
    describe,
    disabled_without_effect,
    find,
    names,
)

__all__ = [
    "DISABLE_VARIABLE", "KINDS", "Kind", "KindName", "Plugin", "build", "builder", "check", "contained",
    "describe", "disabled_without_effect", "find", "load", "names", "read_options",
]  # fmt: skip
