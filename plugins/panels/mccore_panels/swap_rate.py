"""How much of the Working Context each refocus changes."""

from __future__ import annotations

from mccore.api import Extension, Panel
from mccore.hookspecs import hookimpl
from mccore_panels.curve import build


@hookimpl
def mccore_panel() -> Extension[Panel]:
    return Extension(build=build("swap_rate"), summary="share of blocks that a refocus changes")
