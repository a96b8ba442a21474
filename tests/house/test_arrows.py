"""Who may import whom: every arrow between two rooms of mccore stands in the table below, with the reason for the wall.

`docs/ARCHITECTURE.md` is drawn from this table. Imports inside functions and under TYPE_CHECKING count too.
"""

from __future__ import annotations

import pytest

from tests.house.sources import Module, arrows, circles, modules, room_of

KERNEL = ("config", "events", "host", "plugins", "resolve", "runs", "scaling")
ENGINE = ("data", "eval", "generate", "megacontext", "model", "tasks", "train")
SEAM = ("api", "hookspecs")
SMALL = ("errors", "units")  # every room may use them

# room -> (rooms it may use, why the wall stands)
ARROWS: dict[str, tuple[tuple[str, ...], str]] = {
    "host": ((), "knows the machine, nothing of runs"),
    "config": ((), "a schema has no behaviour; everything may read it"),
    "events": (("host",), "readers of a run need neither the schema of configuration nor torch"),
    "api": (
        ("config", "events", "host"),
        "the whole world of a plugin's author; hands it the one reader of JSON files",
    ),
    "hookspecs": (("api",), "one signature and one sentence for each kind of plugin"),
    "scaling": (("config", "host"), "arithmetic only: a form that launches runs uses it"),
    "plugins": ((*SEAM, "config"), "loading imports exactly one module"),
    "resolve": (("api", "config", "host", "plugins", "scaling"), "the only code that merges settings"),
    "runs": (("config", "events", "host"), "attach, replay and post-mortem are one code path"),
    "data": (("host",), "text to tokens; knows no model"),
    "tasks": (
        ("api", "config", "data", "host", "plugins"),
        "one task serves mixture, evaluation and reward; knows no model",
    ),
    "model": (("config", "scaling"), "takes embeddings, positions and a bias; knows no gists"),
    "train": (("config", "data", "model", "runs", "host"), "knows no MegaContext: objectives are handed in"),
    "megacontext": (("api", "config", "data", "model", "host"), "the core idea, usable without a run"),
    "megacontext.training": (("train",), "an objective is written for the loop, and speaks its types"),
    "generate": (("data", "model", "megacontext", "host"), "no server, no task: rewards and stops are handed in"),
    "eval": (
        ("api", "config", "data", "tasks", "model", "megacontext", "generate", "scaling", "host"),
        "measures, never trains (recall apart, which is a test of the algorithm)",
    ),
    "telemetry": (("api", "config", "events", "host", "plugins", "runs"), "guests can't slow a step"),
    "runtime": ((*SEAM, *KERNEL, *ENGINE, "telemetry"), "only here names become objects, allocators too"),
    "stages": (("runtime", *SEAM, *KERNEL, *ENGINE, "contexts", "report"), "an order of calls, no arithmetic"),
    "contexts": (("runtime", "megacontext", "data", "runs", "host", "api", "config"), "saved contexts"),
    "serve": (
        ("config", "contexts", "data", "generate", "host", "megacontext", "runtime"),
        "the event loop knows no model, the worker no client; conversations have one way in",
    ),
    "report": (("config", "events", "runs", "scaling", "host"), "from the directory alone; no torch"),
    "exchange": (
        ("config", "data", "events", "host", "model", "report", "runs", "runtime", "scaling", "train"),
        "names and layouts of others, in one place; what doesn't fit is refused there",
    ),
    "launch": (("config", "events", "runs", "host", "scaling", "telemetry"), "no torch before a worker"),
    "launch.worker": (("stages", "runtime", "train"), "the one module of launch that starts an engine"),
    "tui": (
        ("api", "config", "events", "host", "plugins", "report", "runs"),
        "reads run directories; never torch, of plugins' code panels alone; what it starts is a process of its own",
    ),
    "testing": (
        ("api", "config", "events", "plugins", "resolve", "megacontext", "runs", "tui"),
        "for outsiders; a panel is tested with the view that the monitor gives it",
    ),
    "cli": (
        (
            *SEAM,
            *KERNEL,
            *ENGINE,
            "runtime",
            "stages",
            "contexts",
            "serve",
            "report",
            "exchange",
            "launch",
            "telemetry",
            "tui",
        ),
        "a front end: imports its work when a command is called",
    ),
    "__main__": (("cli",), "`python -m mccore`"),
}

# Inside megacontext: four floors. training and sessions never meet.
MEGACONTEXT: dict[str, tuple[str, ...]] = {
    "networks": (),
    "search": (),
    "tree": ("networks",),
    "working_context": ("networks", "tree"),
    "focus": ("networks", "tree"),
    "training": ("networks", "search", "tree", "working_context", "focus"),
    "sessions": ("networks", "search", "tree", "working_context", "focus"),
}


def allowed(importer: Module, room: str) -> bool:
    """Whether the table lets this module use that room."""
    return room in SMALL or any(room in ARROWS[name][0] for name in rooms_of(importer) if name in ARROWS)


def rooms_of(importer: Module) -> list[str]:
    """The names that a module's rules may stand under: its room, a room inside that, itself."""
    path = importer.name.removeprefix("mccore.").split(".")
    return [".".join(path[:length]) for length in range(1, len(path) + 1)]


def test_every_room_is_in_the_table() -> None:
    rooms = {room_of(name) for name in modules()} - {"__init__"}
    assert rooms == {name for name in ARROWS if "." not in name} | set(SMALL)


def test_every_wall_has_a_reason() -> None:
    assert [room for room, (_, reason) in ARROWS.items() if len(reason) < 10] == []


def test_every_arrow_is_in_the_table() -> None:
    wrong = [
        str(arrow)
        for arrow in arrows()
        if room_of(arrow.importer.name) != room_of(arrow.target) and not allowed(arrow.importer, room_of(arrow.target))
    ]
    assert wrong == []


def test_no_arrow_in_the_table_is_unused() -> None:
    """What nobody needs any more is a wall again. Rooms at the top may use anything below, whether they do or not."""
    used = {(name, room_of(arrow.target)) for arrow in arrows() for name in rooms_of(arrow.importer)}
    for room, (rooms, _) in ARROWS.items():
        if room in ("cli", "stages", "runtime", "launch.worker"):
            continue
        assert [each for each in rooms if (room, each) not in used] == [], room


CLI_SHARED = ("named_path", "progress", "setting_flags", "tables")  # what commands have in common
CLI_BORROWS = {  # may only shrink
    ("setup", "doctor"): "setup ends with the checks of doctor",
    ("doctor", "telemetry"): "probes the providers as `mccore telemetry` does",
    ("events", "telemetry"): "exports to the providers that `mccore telemetry` names",
}


def test_no_command_imports_from_another() -> None:
    """What two commands need belongs below them, or in a module that says what it shares."""
    borrowed = set()
    for arrow in arrows():
        names = arrow.importer.name.split("."), arrow.target.split(".")
        if all(name[:2] == ["mccore", "cli"] and len(name) > 2 for name in names):
            importer, target = (name[2] for name in names)
            if importer != target and target not in CLI_SHARED:
                borrowed.add((importer, target))
    assert borrowed == set(CLI_BORROWS)


def test_no_circle() -> None:
    assert circles() == []


@pytest.mark.parametrize("floor", MEGACONTEXT)
def test_the_floors_inside_megacontext(floor: str) -> None:
    wrong = []
    for arrow in arrows():
        names = arrow.importer.name.split("."), arrow.target.split(".")
        if all(name[1] == "megacontext" and len(name) > 2 for name in names):
            importer, target = (name[2] for name in names)
            if importer == floor and target != floor and target not in MEGACONTEXT[floor]:
                wrong.append(str(arrow))
    assert wrong == []
