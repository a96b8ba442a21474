"""The six hooks of plugins. One entry point is one module that implements exactly one of them."""

from __future__ import annotations

import pluggy

from mccore.api import Allocator, Extension, Panel, QuestionSource, Recipe, TelemetryProvider, TreeBackend

PROJECT = "mccore"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def mccore_tree_backend() -> Extension[TreeBackend]:
    """Storage of a MegaContext tree (entry-point group `mccore.trees`)."""


@hookspec(firstresult=True)
def mccore_allocator() -> Extension[Allocator]:
    """A focus allocator (entry-point group `mccore.allocators`)."""


@hookspec(firstresult=True)
def mccore_telemetry_provider() -> Extension[TelemetryProvider]:
    """A destination of events (entry-point group `mccore.telemetry`)."""


@hookspec(firstresult=True)
def mccore_recipe() -> Recipe:
    """A named, complete configuration (entry-point group `mccore.recipes`)."""


@hookspec(firstresult=True)
def mccore_panel() -> Extension[Panel]:
    """A panel of the monitor (entry-point group `mccore.panels`)."""


@hookspec(firstresult=True)
def mccore_task() -> Extension[QuestionSource]:
    """Questions with known answers (entry-point group `mccore.tasks`)."""
