"""What every recipe resolves to, by profile and with MegaContext, is what it resolved to before recipes shared their parts.

`resolved.json` was written by commit bdf8b1c: all of `tiny`, and of the others what differs from it; under `-` stand settings of
`tiny` that they haven't got. Settings that came later aren't in it. Version 1 of the schema said 0 where a number is
derived: version 2 says None, so the file is read as a version 1 is. Mixtures were written anew when each task got a
name of its own, and the stages of those recipes that end with learning from rewards.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mccore import plugins
from mccore.config import RunConfig, walk_settings
from mccore.config.diff import flatten
from mccore.resolve.resolve import resolve

RESOLVED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "resolved.json").read_bytes())


DERIVED = {described.path for described in walk_settings(RunConfig) if described.is_derived}
OF_A_START = ("telemetry",)  # what a start of a run has beside what its recipe says


def expected(label: str) -> dict[str, Any]:
    found = {**RESOLVED["tiny"], **RESOLVED[label]}
    gone = (*found.pop("-", []), *OF_A_START, "schema_version")
    return {
        path: None if path in DERIVED and value == 0 else value for path, value in found.items() if path not in gone
    }


@pytest.mark.parametrize("label", RESOLVED)
def test_recipes_resolve_as_they_did(label: str) -> None:
    name, *rest = label.split("-")
    megacontext = rest[-1:] == ["mc"]
    gpu = "-".join(rest[:-1] if megacontext else rest) or None
    flat = flatten(resolve(name, gpu=gpu, flags={"megacontext.enabled": True} if megacontext else {}))
    wanted = expected(label)
    assert {path: flat.get(path) for path in wanted} == wanted
    mixtures = [path for path in flat if path.startswith(("mid.mixture", "sft.mixture")) and path not in wanted]
    assert mixtures == []  # a source too many would train on something else


def test_every_recipe_and_profile_is_covered() -> None:
    labels = set()
    for name in plugins.names("recipe"):
        if plugins.find("recipe", name).module.startswith("mccore_recipes."):
            labels |= {
                "-".join(part for part in (name, gpu) if part) for gpu in ("", *plugins.load("recipe", name).profiles)
            }
    assert labels | {f"{label}-mc" for label in labels} == set(RESOLVED)
