"""Two configurations side by side, setting by setting."""

from __future__ import annotations

from typing import Any

from mccore.config.run import RunConfig


def flatten(config: RunConfig) -> dict[str, Any]:
    """Every leaf of a configuration by its dotted path, options of plugins and counts of mixtures included."""
    flat: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                walk(inner, f"{path}.{name}" if path else name)
        else:
            flat[path] = value

    walk(config.model_dump(mode="json"), "")
    return flat


def differences(a: RunConfig, b: RunConfig) -> dict[str, tuple[Any, Any]]:
    """The settings in which two configurations differ: dotted path -> (value in a, value in b), None where there is none."""
    left, right = flatten(a), flatten(b)
    paths = list(dict.fromkeys([*left, *right]))
    return {path: (left.get(path), right.get(path)) for path in paths if left.get(path) != right.get(path)}
