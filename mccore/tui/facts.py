"""What recipes and plugins say of themselves, each asked once in a process of its own: `mccore plugins show`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mccore.config.inputs import SettingInput
from mccore.host.json_file import BadJson, parse_json
from mccore.tui import actions
from mccore.tui.form import Form, option_inputs, recipe_values

PLUGINS = ("allocator", "tree")  # that a run with MegaContext has one of


class Facts:
    """The answers so far. What a faulty plugin leaves out isn't there; the plan of the run says how it is faulty."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], Mapping[str, Any]] = {}

    async def learn(self, form: Form) -> bool:
        """Ask one of those that a form has chosen and that haven't been asked; whether there was one."""
        wanted = next((each for each in self._chosen(form) if each not in self._told), None)
        if wanted is None:
            return False
        code, said, _ = await actions.answer(["plugins", "show", *wanted, "--json"])
        try:
            found = parse_json(said) if code == 0 else {}
        except BadJson:
            found = {}
        self._told[wanted] = found if isinstance(found, Mapping) else {}
        return True

    def values(self, form: Form) -> dict[str, str]:
        """What the form's recipe says of each setting."""
        return recipe_values(self._config(form.recipe))

    def profiles(self, form: Form) -> list[str]:
        """The kinds of machines that the form's recipe knows."""
        found = self._told.get(("recipe", form.recipe), {}).get("profiles")
        return [str(name) for name in found] if isinstance(found, Mapping) else []

    def options(self, form: Form) -> list[SettingInput]:
        """The options of every plugin that a run of the form would use."""
        found: list[SettingInput] = []
        for kind, name in self._chosen(form)[1:]:  # all but the recipe
            told: Sequence[Mapping[str, Any]] = self._told.get((kind, name), {}).get("options", ())
            try:
                found += option_inputs(kind, name, told)
            except (TypeError, KeyError, AttributeError):
                continue
        return found

    def _config(self, recipe: str) -> Mapping[str, Any]:
        found = self._told.get(("recipe", recipe), {}).get("config")
        return found if isinstance(found, Mapping) else {}

    def _chosen(self, form: Form) -> list[tuple[str, str]]:
        found = [("recipe", form.recipe), *(("telemetry", name) for name in form.telemetry)]
        if form.megacontext:
            own = self._config(form.recipe).get("megacontext", {})
            for kind in PLUGINS:
                name = getattr(form, kind) or own.get(kind, {}).get("name", "")
                found += [(kind, name)] if name else []
        return found
