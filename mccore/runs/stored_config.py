"""The configuration that a run or a checkpoint keeps, read as what it may be: damaged, newer, or not ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mccore.config import READABLE_VERSIONS, SCHEMA_VERSION, RunConfig, validate_stored
from mccore.errors import ConfigError
from mccore.host.json_file import BadJson, read_object

_NEWER = "use the version of mccore that wrote it"


def read_config(path: Path) -> RunConfig:
    """The configuration in a `run.json`. Raises ConfigError when it can't be read, is damaged or of another version."""
    try:
        content = read_object(path)
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}") from error
    except BadJson as error:
        raise ConfigError(f"{path} is damaged: {error}", hint="restore it from a copy") from error
    return parse_config(content, str(path))


def parse_config(content: Any, source: str) -> RunConfig:
    """The configuration in a stored object. Raises ConfigError naming `source` and the field, or the version."""
    version = content.get("schema_version", SCHEMA_VERSION) if isinstance(content, dict) else SCHEMA_VERSION
    if isinstance(version, int) and version not in READABLE_VERSIONS:
        raise ConfigError(
            f"{source} has a configuration of version {version}, and this mccore reads versions up to {SCHEMA_VERSION}",
            hint=_NEWER,
        )
    try:
        return validate_stored(RunConfig, content)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}", hint=f"if a newer mccore wrote it: {_NEWER}") from error
