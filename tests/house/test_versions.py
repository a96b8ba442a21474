"""The distributions of the workspace are released together, under one version."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def test_every_distribution_has_the_same_version() -> None:
    members = [ROOT, ROOT / "rustbpe", *(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))]
    versions = {member.name: read(member / "pyproject.toml")["project"]["version"] for member in members}
    versions["crate"] = read(ROOT / "rustbpe" / "Cargo.toml")["package"]["version"]
    assert len(versions) == 8
    assert len(set(versions.values())) == 1, versions
