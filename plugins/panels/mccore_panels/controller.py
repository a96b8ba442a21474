"""How long a refocus takes."""

from __future__ import annotations

from mccore.api import Extension, Panel
from mccore.hookspecs import hookimpl
from mccore_panels.curve import build


@hookimpl
def mccore_panel() -> Extension[Panel]:
    return Extension(build=build("controller_duration"), summary="time that a refocus takes")
