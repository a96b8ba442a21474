"""Every place mccore keeps things: runs and caches, under one base directory or the platform's own.

`MCCORE_BASE_DIR` (or nanochat's `NANOCHAT_BASE_DIR`) puts both below one directory; without it runs go to the platform's
data directory and caches to its cache directory.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from mccore.errors import UsageError, cause


def base_dir(environ: Mapping[str, str] | None = None) -> Path | None:
    """The directory a user chose for everything, or None when the platform's directories apply."""
    environ = os.environ if environ is None else environ
    for variable in ("MCCORE_BASE_DIR", "NANOCHAT_BASE_DIR"):
        value = environ.get(variable, "").strip()
        if value:
            return _absolute(expand(value, variable), variable)
    return None


def expand(path: str | Path, what: str = "the path") -> Path:
    """A path with `~` written out. Raises UsageError for the home of a user that there isn't, and for a NUL."""
    try:
        expanded = Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{what} {str(path)!r}: there is no such home directory", hint="write it out") from error
    if "\0" in str(expanded):
        raise UsageError(f"{what} {str(path)!r} can't be: it has a NUL in it", hint="correct it")
    return expanded


def _absolute(path: Path, what: str) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # a deleted working directory, links that lead to themselves
        raise UsageError(
            f"{what} {str(path)!r} can't be found: {cause(error)}", hint="give an absolute path"
        ) from error


def working_directory() -> Path | None:
    """The directory this process stands in; None where it was deleted."""
    try:
        return Path.cwd()
    except OSError:
        return None


def runs_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Where runs live, one directory each."""
    base = base_dir(environ)
    return (base or _platform_dir("data", environ)) / "runs"


def sessions_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Where conversations that were given a name live, one directory each."""
    base = base_dir(environ)
    return (base or _platform_dir("data", environ)) / "sessions"


def served_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Where a server keeps its conversations, below it those of each model."""
    base = base_dir(environ)
    return (base or _platform_dir("data", environ)) / "served"


def cache_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Where things live that can be made again: encoded corpora, measurements of this machine."""
    base = base_dir(environ)
    return base / "cache" if base else _platform_dir("cache", environ)


def _platform_dir(kind: str, environ: Mapping[str, str] | None) -> Path:
    environ = os.environ if environ is None else environ
    try:
        home = Path(environ.get("HOME") or Path.home())
    except RuntimeError as error:
        raise UsageError(
            "there is no home directory to keep runs in", hint="set HOME, or choose a directory with MCCORE_BASE_DIR"
        ) from error
    if sys.platform == "darwin":
        folder = {"data": "Library/Application Support", "cache": "Library/Caches"}[kind]
        return home / folder / "mccore"
    if sys.platform == "win32":
        local = Path(environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
        return local / "mccore" / kind
    variable, fallback = {"data": ("XDG_DATA_HOME", ".local/share"), "cache": ("XDG_CACHE_HOME", ".cache")}[kind]
    root = environ.get(variable, "").strip()
    return (Path(root) if Path(root).is_absolute() and root else home / fallback) / "mccore"


_SOURCES = ("parquet", "jsonl", "text")  # kinds of data that are named as kind:PATH


def absolute_source(name: str) -> str:
    """A name of data, such as `text:books/*.txt`, with its path made absolute: it then means the same wherever one stands.

    Names without a path stay as they are. In a pattern the directory one stands in is escaped, since it isn't part of it.
    """
    kind, colon, path = name.partition(":")
    if kind not in _SOURCES or not colon or not path:
        return name
    path = os.path.expanduser(path)
    if os.path.isabs(path):
        return f"{kind}:{path}"
    here = os.getcwd()
    plain = path.rpartition("#")[0] or path
    if glob.has_magic(path) and not (os.path.exists(path) or os.path.exists(plain)):
        return f"{kind}:{os.path.join(glob.escape(here), path)}"
    return f"{kind}:{os.path.join(here, path)}"
