"""`mccore run`: from a recipe to a trained model, or on with a run that was stopped."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from mccore import plugins
from mccore.api import Recipe
from mccore.cli.setting_flags import ConfiguredCommand, Given, given, resolve_given
from mccore.cli.tables import describe
from mccore.config import TRAINING_STAGES, HardwareConfig, RunConfig
from mccore.config.diff import differences
from mccore.errors import ConfigError, MccoreError, UsageError
from mccore.host import paths
from mccore.host.terminal import echo, echo_json
from mccore.launch.command import FREE_SETTINGS, effective_hardware, stage_command, stage_environment
from mccore.launch.launcher import launch, stages_to_do
from mccore.resolve.draft import TELEMETRY, parse_set
from mccore.resolve.resolve import resolve
from mccore.runs.checkpoints import latest
from mccore.runs.rundir import Outcome, RunDir, check_name
from mccore.scaling.estimate import estimate
from mccore.scaling.plan import shared_units
from mccore.stages.preflight import check_sources
from mccore.telemetry.activation import Activation, activate, chosen

_EXIT_CODES = {"finished": 0, "stopped": 130, "interrupted": 130}


@click.command(cls=ConfiguredCommand)
@click.argument("recipe", required=False)
@click.option("--name", metavar="NAME", help="Name of the run; by default the recipe and the time.")
@click.option(
    "--resume",
    is_flag=False,
    flag_value="latest",
    default=None,
    metavar="[RUN]",
    help="Go on with a run: by --name, or by name or directory here; the latest without either.",
)
@click.option("--dry-run", is_flag=True, help="Show the configuration, the commands and the cost; start nothing.")
@click.option("--json", "as_json", is_flag=True, help="Events as lines of JSON; with --dry-run one JSON object.")
@click.pass_context
def run(
    ctx: click.Context, recipe: str | None, name: str | None, resume: str | None, dry_run: bool, as_json: bool
) -> int:
    """Train a model by RECIPE, from raw text to a chat.

    Every value of the configuration can be set by --set; the flags below are short for the usual ones. A run lives in a
    directory of its own, so it can be watched, stopped and resumed from elsewhere.
    """
    if resume is not None:
        return _resume(recipe, name, resume, given(ctx), dry_run=dry_run, as_json=as_json)
    if recipe is None:
        names = ", ".join(plugins.names("recipe"))
        raise UsageError("no recipe is given", hint=f"choose one of {names}; or go on with a run by --resume")
    if name is not None:
        check_name(name)
    config = resolve_given(ctx, recipe)
    telemetry = activate(config)
    root = paths.runs_dir()
    name = name or _fresh_name(recipe, root)
    if dry_run:
        _show_plan(config, config.hardware, root / name, config.stages, telemetry, as_json=as_json)
        _check_hardware(config.hardware)
        _say_unchecked(check_sources(config, ask_hub=False))
        return 0
    _check_hardware(config.hardware)
    check_sources(config)
    _print_cost(config, config.hardware)
    started = RunDir.create(root, name, config)
    return _start(started, config.hardware, telemetry, as_json=as_json)


def _resume(recipe: str | None, name: str | None, selector: str, asked: Given, *, dry_run: bool, as_json: bool) -> int:
    """Go on with an existing run under the configuration it was started with."""
    if not selector:
        raise UsageError("--resume names no run", hint="leave the name out for the latest one")
    if selector != "latest" and name:
        if recipe is not None or selector not in plugins.names("recipe"):
            raise UsageError(f"both --name {name} and --resume {selector} name a run", hint="give one of them")
        recipe = selector  # `--resume tiny --name mine`: the recipe was taken for the option's value
    found = RunDir.open(name or selector)
    if recipe is not None and recipe != found.config.recipe:
        raise ConfigError(
            f"the run {found.name!r} was made by the recipe {found.config.recipe!r}, not {recipe!r}",
            hint=f"`mccore run --resume {found.name}` goes on with it",
        )
    telemetry, asked = _chosen_telemetry(found, asked)
    hardware = effective_hardware(found, _changes(found, asked))
    _check_hardware(hardware)
    _check_width(found.config, hardware)
    if dry_run:
        _show_plan(found.config, hardware, found.path, stages_to_do(found), telemetry, as_json=as_json)
        _say_unchecked(check_sources(found.config, stages_to_do(found), ask_hub=False))
        return 0
    check_sources(found.config, stages_to_do(found))
    return _start(found, hardware, telemetry, as_json=as_json)


def _say_unchecked(names: list[str]) -> None:
    if names:
        echo(f"not checked, since the hub isn't asked here: {', '.join(names)}", err=True)


def _chosen_telemetry(found: RunDir, asked: Given) -> tuple[Activation, Given]:
    """The providers of this start, which may be others than those of the run, and what else was typed."""
    flags = {path: value for path, value in asked.flags.items() if path == TELEMETRY}
    sets = [text for text in asked.sets if parse_set(text).path.partition(".")[0] == TELEMETRY]
    if not flags and not sets:
        return activate(found.config), asked
    rest = {path: value for path, value in asked.flags.items() if path not in flags}
    wanted = resolve(found.config.recipe, sets=sets, flags=flags, typed=asked.typed, load=_own_recipe(found))
    return chosen(wanted.telemetry), Given([text for text in asked.sets if text not in sets], rest, asked.typed)


def _own_recipe(found: RunDir) -> Callable[[Any, str], Any]:
    """The run as its own recipe, so that a recipe that has changed since doesn't get in the way."""
    gpu = found.config.hardware.gpu

    def load(kind: Any, name: str) -> Any:
        if kind != "recipe":
            return plugins.load(kind, name)
        return Recipe(found.config, profiles={gpu: {}} if gpu else {})

    return load


def _changes(found: RunDir, asked: Given) -> dict[str, Any]:
    """What of the typed settings differs from the run's own and may. Raises ConfigError for what may not."""
    config = found.config
    if not asked:
        return {}
    gpu = config.hardware.gpu
    if asked.flags.get("hardware.gpu", gpu) != gpu:
        raise _fixed(found, {"hardware.gpu": (gpu, asked.flags["hardware.gpu"])}, asked)

    free = {path: value for path, value in asked.flags.items() if path in FREE_SETTINGS}
    fixed = {path: value for path, value in asked.flags.items() if path not in FREE_SETTINGS}
    sets = [text for text in asked.sets if parse_set(text).path not in FREE_SETTINGS]
    free_sets = [text for text in asked.sets if text not in sets]
    wanted = resolve(config.recipe, sets=sets, flags=fixed, typed=asked.typed, load=_own_recipe(found))
    if changed := differences(config, wanted):
        raise _fixed(found, changed, asked)
    values = effective_hardware(found, {path.partition(".")[2]: value for path, value in free.items()}).model_dump()
    for text in free_sets:
        setting = parse_set(text)
        values[setting.path.partition(".")[2]] = setting.value
    return {path.partition(".")[2]: values[path.partition(".")[2]] for path in FREE_SETTINGS}


def _fixed(found: RunDir, changed: dict[str, tuple[Any, Any]], asked: Given) -> ConfigError:
    path, (before, after) = next(iter(changed.items()))
    typed = asked.typed.get(path, path)
    others = f" (and {', '.join(list(changed)[1:4])})" if len(changed) > 1 else ""
    return ConfigError(
        f"a resumed run keeps its configuration: `{typed}` is {before!r} in {found.name!r}, not {after!r}{others}",
        hint=f"leave it out, or start a new run; only {', '.join((*FREE_SETTINGS, TELEMETRY))} may change",
    )


def _check_hardware(hardware: HardwareConfig) -> None:
    if hardware.nnodes > 1 and not hardware.rdzv_endpoint:
        raise ConfigError(
            f"--nnodes {hardware.nnodes} needs a place where the machines meet", hint="give --rdzv-endpoint HOST:PORT"
        )
    if hardware.nnodes == 1 and hardware.rdzv_endpoint:
        raise ConfigError("--rdzv-endpoint has no effect on one machine", hint="give --nnodes too, or leave it out")


def _check_width(config: RunConfig, hardware: HardwareConfig) -> None:
    """A resumed run keeps its batch, so the ranks of this start must share it evenly."""
    world = hardware.nproc * hardware.nnodes
    for stage in TRAINING_STAGES:
        shared, name = shared_units(config, stage)
        if stage in config.stages and shared % world:
            raise ConfigError(
                f"{world} ranks can't share the {shared} {name} of a step of {stage} evenly",
                hint=f"use a number of ranks that divides {shared}",
            )


def _fresh_name(recipe: str, root: Path) -> str:
    stem = f"{recipe}-{time.strftime('%Y%m%d-%H%M%S')}"
    return next(name for name in (stem, *(f"{stem}-{count}" for count in range(2, 1000))) if not (root / name).exists())


def _commands(path: Path, stages: Sequence[Any], hardware: HardwareConfig) -> list[dict[str, Any]]:
    return [
        {
            "stage": stage,
            "command": stage_command(path, stage, hardware, path.name),
            "environment": stage_environment(stage, hardware),
        }
        for stage in stages
    ]


def _show_plan(
    config: RunConfig,
    hardware: HardwareConfig,
    path: Path,
    stages: Sequence[Any],
    telemetry: Activation,
    *,
    as_json: bool,
) -> None:
    cost = estimate(config, hardware)
    commands = _commands(path, stages, hardware)
    if as_json:
        plan = {
            "config": config.model_dump(mode="json"),
            "telemetry": [
                {"name": one.choice.name, "why": one.why, "options": one.choice.options} for one in telemetry.active
            ],
            "commands": commands,
            "estimate": cost.to_json(),
            "run_dir": str(path),
            "words": [*describe(config, cost), *_telemetry_lines(telemetry)],
            "differs": {name: list(values) for name, values in _changed(config).items()},
        }
        echo_json(plan)
        return
    echo("\n".join([*describe(config, cost), *_telemetry_lines(telemetry)]))
    echo(f"\nrun directory\n  {path}\n\nconfiguration (run.json)\n{config.to_json()}\ncommands")
    for item in commands:
        environment = " ".join(f"{name}={value}" for name, value in item["environment"].items())
        echo(f"  {environment} {shlex.join(item['command'])}")


def _changed(config: RunConfig) -> dict[str, tuple[Any, Any]]:
    """In what a configuration differs from its recipe's, what was derived included; nothing where the recipe is gone."""
    try:
        return differences(resolve(config.recipe), config)
    except MccoreError:
        return {}


def _print_cost(config: RunConfig, hardware: HardwareConfig) -> None:
    echo("\n".join(describe(config, estimate(config, hardware))), err=True)


def _telemetry_lines(telemetry: Activation) -> list[str]:
    return [f"{'telemetry' if place == 0 else '':<12}{line}" for place, line in enumerate(telemetry.lines())]


def _start(started: RunDir, hardware: HardwareConfig, telemetry: Activation, *, as_json: bool) -> int:
    from mccore.cli.progress import make_listener

    echo(f"run         {started.name} in {started.path}", err=True)
    echo("\n".join(_telemetry_lines(telemetry)), err=True)
    listener = make_listener(as_json)
    outcome = launch(started, hardware=hardware, listener=listener, telemetry=telemetry)
    _say_outcome(started, outcome)
    return _EXIT_CODES.get(outcome.state, 1)


def _has_model(ended: RunDir) -> bool:
    """Whether there is something to chat with: a run of preparing stages has no model."""
    return any(latest(ended.checkpoint_dir(stage)) for stage in TRAINING_STAGES)


def _say_outcome(ended: RunDir, outcome: Outcome) -> None:
    at = f" in {outcome.stage}" if outcome.stage and outcome.state != "finished" else ""
    because = f": {outcome.message}" if outcome.message else ""
    lines = [f"{'error: ' if outcome.state == 'failed' else ''}the run {ended.name!r} {outcome.state}{at}{because}"]
    report = ended.report_dir / "report.md"
    if report.is_file():
        lines.append(f"report: {report}")
    if outcome.state == "finished":
        lines += [f"next: mccore chat {shlex.quote(ended.name)}"] if _has_model(ended) else []
    elif outcome.state in ("stopped", "interrupted"):
        lines.append(f"next: mccore run --resume {shlex.quote(ended.name)}")
    elif outcome.stage and (log := ended.log_path(outcome.stage)).is_file():
        lines.append(f"log: {log}")
        where = "from the last checkpoint" if _has_model(ended) else f"with {outcome.stage}"
        resume = f"mccore run --resume {shlex.quote(ended.name)} goes on {where}"
        lines.append(f"hint: {outcome.hint}; then {resume}" if outcome.hint else f"hint: {resume}")
    try:
        echo("\n".join(lines), err=True)
    except OSError:  # the terminal went away while the run went on
        return
