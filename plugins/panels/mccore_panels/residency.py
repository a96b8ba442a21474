"""How full the Working Context is."""

from __future__ import annotations

from mccore.api import Extension, Panel
from mccore.hookspecs import hookimpl
from mccore_panels.curve import build


@hookimpl
def mccore_panel() -> Extension[Panel]:
    return Extension(build=build("residency"), summary="entries in use of the budget")
