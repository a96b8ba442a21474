"""Paths on the command line."""

from __future__ import annotations

import os
from typing import Any

import click


class NamedPath(click.Path):
    """A path that a person names. An empty one is refused: it is a variable of the shell that isn't set more often than the
    directory one stands in, which is `.`."""

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not os.fspath(value):
            self.fail("it is empty; write . for the directory you are in", param, ctx)
        return super().convert(value, param, ctx)
