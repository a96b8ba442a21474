"""The one reader of JSON files of our own, which a stranger may have written: bounded, regular files only, told apart by fault.

`read_json` raises OSError for what the system refuses (no permission, not a regular file) and BadJson for what the content is
at fault for, so that no one is told to delete a sound file. Deep nesting, huge numbers and huge files are BadJson too.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mccore.host.regular import regular_descriptor

MAX_BYTES = 64 * 2**20
MAX_DEPTH = 64


class BadJson(ValueError):
    """The content isn't what we write; `str()` says why in one line."""


class NotOurs(BadJson):
    """JSON, but of another kind of file."""


class OtherVersion(BadJson):
    """A file of ours in a format version that this mccore doesn't read."""


def read_regular(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file of at most `max_bytes`. Links are followed; a FIFO or a device is never waited for.

    Raises OSError, also for what isn't a regular file, and BadJson for a larger file.
    """
    with os.fdopen(regular_descriptor(path), "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise BadJson(f"it is larger than {max_bytes >> 20} MiB")
    return content


def parse_json(text: bytes | str, *, max_depth: int = MAX_DEPTH) -> Any:
    """The value of a JSON text. Raises BadJson, also for what is nested deeper than `max_depth` or has absurd numbers."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        value = json.loads(text)
    except RecursionError:
        raise BadJson("it is nested too deeply") from None
    except ValueError as error:
        reason = "a number has thousands of digits" if "digits" in str(error) else str(error)
        raise BadJson(f"it isn't valid JSON: {reason}") from None
    # Counting brackets is quick and mostly enough: only what could be too deep is walked.
    if text.count("[") + text.count("{") > max_depth and _deeper(value, max_depth):
        raise BadJson("it is nested too deeply")
    return value


def read_json(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """The value in a JSON file of ours. Raises OSError and BadJson, see the module."""
    return parse_json(read_regular(path, max_bytes=max_bytes))


def read_object(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """`read_json` of a file that holds an object."""
    value = read_json(path, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise BadJson("it holds no JSON object")
    return value


def check_format(content: Any, name: str, version: int) -> dict[str, Any]:
    """`content` if it is an object of format `name` in this `version`. Raises NotOurs, OtherVersion."""
    if not isinstance(content, dict) or content.get("format") != name:
        raise NotOurs(f"it isn't a file of format {name!r}")
    found = content.get("version")
    if type(found) is not int or found != version:
        raise OtherVersion(f"it has format version {str(found)[:20]}, and this mccore reads version {version}")
    return content


def _deeper(value: Any, depth: int) -> bool:
    """Whether lists and objects are nested deeper than `depth`, found without recursion."""
    level = [value] if isinstance(value, dict | list) else []
    while level and depth >= 0:
        depth -= 1
        inner = (item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer))
        level = [item for item in inner if isinstance(item, dict | list)]
    return bool(level)
