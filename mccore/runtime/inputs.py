"""What a run takes from outside itself, recorded when it is first used and compared every time after.

The corpus, files of conversations and the standard library are read again by later stages and after a resume. Training that goes
on from a place in one text with another text is wrong without a sign, so a difference is an error. `inputs.json` in the run's
directory holds the fingerprints by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mccore.errors import RunError, cause
from mccore.host.files import write_atomic
from mccore.host.json_file import read_object

FILE = "inputs.json"
_NAMES = ("name", "files")  # where it lies may differ: what it says may not


class InputChanged(RunError):
    """Something outside the run isn't what the run began with."""


def check_input(run: Path, name: str, fingerprint: Mapping[str, Any], *, record: bool) -> None:
    """Compare an input with what the run used before; `record` writes it down where it is used for the first time.

    Raises InputChanged, which names both.
    """
    known = _recorded(run / FILE)
    before = known.get(name)
    if before is None:
        if record:
            write_atomic(run / FILE, json.dumps(known | {name: dict(fingerprint)}, indent=2) + "\n")
        return
    changed = [key for key in before if key in fingerprint and key not in _NAMES and before[key] != fingerprint[key]]
    if changed:
        raise InputChanged(
            f"{name} has changed since this run began: "
            + "; ".join(f"{key} was {_short(before[key])}, is {_short(fingerprint[key])}" for key in changed[:3]),
            hint="put back what it was, or start a new run: going on would train on other data from the middle",
        )


def _recorded(path: Path) -> dict[str, Any]:
    try:
        content = read_object(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RunError(f"can't read {path}: {cause(error)}", hint="put it back from a copy") from error
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise RunError(f"{path} is damaged: it isn't an object of objects", hint="put it back from a copy")
    return content


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 16 else f"{text[:12]}..."
