"""`mccore doctor`: is everything there that mccore needs, and if not, what to do. Nothing is changed, torch isn't imported."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Literal
from urllib.parse import urlsplit

import click

from mccore import plugins
from mccore.errors import MccoreError
from mccore.host import env as settings
from mccore.host import machine, paths
from mccore.host.terminal import echo, echo_json, style
from mccore.units import size

State = Literal["ok", "warn", "fail"]
_MIN_TORCH = (2, 11)
_CONNECT_SECONDS = 2.0
# Variables that name a place telemetry goes to, and the port where the address has none.
_ENDPOINTS = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": 4318,
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": 4318,
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": 4318,
    "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": 4318,
    "MC_OTEL_ENDPOINT": 4318,
    "MCCORE_OTEL_ENDPOINT": 4318,
    "MCCORE_OPENSEARCH_URL": 9200,
    "MCCORE_PROMETHEUS_GATEWAY": 9091,
    "WANDB_BASE_URL": 443,
}


@dataclass(frozen=True)
class Diagnosis:
    """One line of the doctor: what was looked at, how it is, and what to do about it."""

    name: str
    state: State
    detail: str
    hint: str = ""


_JSON = click.option("--json", "as_json", is_flag=True, help="Machine-readable.")


@click.group(invoke_without_command=True)
@_JSON
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> int:
    """Check this machine, the installation, credentials and telemetry. Exits with 1 when something fails."""
    if ctx.invoked_subcommand is not None:
        return 0
    return _print_report([check for look in CHECKS for check in look()], as_json)


@doctor.command("telemetry")
@click.argument("run", required=False)
@click.option(
    "--to", "providers", multiple=True, metavar="PROVIDER", help="Try this one; by default those that are on."
)
@click.option(
    "--set", "sets", multiple=True, metavar="PROVIDER.OPTION=VALUE", help="An option of a provider, over those it has."
)
@_JSON
def telemetry(run: str | None, providers: tuple[str, ...], sets: tuple[str, ...], as_json: bool) -> int:
    """Send a probe through telemetry providers: those of RUN, or of a run with --mc that would start here now.

    What a server answers is shown in its own words. A probe is a run called mccore-doctor with one step.
    """
    from mccore.cli.telemetry import chosen_providers
    from mccore.config import MegaContextConfig, RunConfig
    from mccore.runs.rundir import RunDir
    from mccore.telemetry.activation import activate
    from mccore.telemetry.probe import probe

    # The environment's otel counts for runs with --mc.
    config = RunDir.open(run).config if run else RunConfig(megacontext=MegaContextConfig(enabled=True))
    activation = activate(config)
    names = providers or tuple(choice.name for choice in activation.choices)
    own = config.model_copy(update={"telemetry": config.telemetry or activation.choices})
    found = probe(chosen_providers(own, names, sets), config)
    checks = [Diagnosis(one.provider, "ok" if one.arrived else "fail", one.detail, one.hint) for one in found]
    return _print_report(checks or [Diagnosis("telemetry", "ok", "; ".join(activation.lines()))], as_json)


def _print_report(checks: list[Diagnosis], as_json: bool) -> int:
    failed = any(check.state == "fail" for check in checks)
    if as_json:
        echo_json({"ok": not failed, "checks": [asdict(check) for check in checks]})
    else:
        print_checks(checks)
    return int(failed)


def print_checks(checks: list[Diagnosis]) -> None:
    """A line per check, and one more for what to do."""
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    width = max(len(check.name) for check in checks)
    for check in checks:
        echo(style(f"{check.state:<4}", fg=colours[check.state]), f"  {check.name:<{width}}  {check.detail}")
        if check.hint and check.state != "ok":
            echo(f"{'':<{width + 8}}{check.hint}")


# --- the installation ---------------------------------------------------------------------------------------------------


def check_versions() -> Iterator[Diagnosis]:
    """Python, mccore, torch and the Rust extension."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Diagnosis(
        "python", "ok" if sys.version_info >= (3, 11) else "fail", version, "mccore needs Python 3.11 or newer"
    )
    yield Diagnosis("mccore", "ok", metadata.version("mccore"))
    yield _check_torch()
    try:
        import mccore_rustbpe  # noqa: F401
    except ImportError as error:
        hint = "reinstall mccore-rustbpe; building it from source needs a Rust toolchain"
        yield Diagnosis("rust extension", "fail", str(error), hint)
    else:
        yield Diagnosis("rust extension", "ok", f"mccore-rustbpe {metadata.version('mccore-rustbpe')}")


def _check_torch() -> Diagnosis:
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return Diagnosis("torch", "fail", "not installed", "reinstall mccore with its dependencies")
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())
    needed = ".".join(map(str, _MIN_TORCH))
    return Diagnosis(
        "torch", "ok" if numbers >= _MIN_TORCH else "fail", version, f"mccore needs torch {needed} or newer"
    )


def check_plugins() -> Iterator[Diagnosis]:
    """Every plugin, loaded. One of ours that is broken is a failure, a third party's a warning."""
    rows = plugins.check()
    ours = {re.split(r"[^\w.-]", line)[0] for line in metadata.requires("mccore") or ()}
    healthy = sum(1 for row in rows if not row.problem)
    if rows and healthy == len(rows):
        yield Diagnosis("plugins", "ok", f"{healthy} found, all usable")
    else:
        yield Diagnosis("plugins", "ok" if healthy else "fail", f"{healthy} of {len(rows)} usable", "reinstall mccore")
    for row in rows:
        if row.problem:
            state: State = "fail" if row.distribution in ours else "warn"
            yield Diagnosis(f"{row.kind} {row.name}", state, row.problem, f"reinstall or update {row.distribution}")
    for name in plugins.disabled_without_effect():
        yield Diagnosis(
            "plugins", "warn", f"{plugins.DISABLE_VARIABLE} names {name!r}, which isn't there", "correct it"
        )


# --- the machine --------------------------------------------------------------------------------------------------------


def check_machine() -> Iterator[Diagnosis]:
    """Cores, memory, GPUs."""
    import psutil

    yield Diagnosis("cpu", "ok", f"{machine.available_cores()} cores, {machine.cpu_name()}")
    memory = psutil.virtual_memory()
    enough = memory.available >= 2 << 30
    detail = f"{size(memory.available)} free of {size(memory.total)}"
    yield Diagnosis(
        "memory", "ok" if enough else "warn", detail, "even the tiny recipe wants 2 GiB: end other programs"
    )
    gpus = machine.accelerators()
    if gpus:
        detail = ", ".join(f"{gpu.name} ({size(gpu.memory_bytes)})" for gpu in gpus)
        yield Diagnosis("gpu", "ok", f"{detail}; driver {gpus[0].driver}")
    elif shutil.which("nvidia-smi"):
        yield Diagnosis("gpu", "warn", "nvidia-smi is here but finds no GPU", "check the driver, or train on the CPU")
    else:
        yield Diagnosis("gpu", "ok", "none: training runs on the CPU")


def check_places() -> Iterator[Diagnosis]:
    """The directories of runs and caches: writable, with room."""
    for name, directory in (("runs", paths.runs_dir()), ("cache", paths.cache_dir())):
        there = next(path for path in (directory, *directory.parents) if path.exists())
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            hint = "choose another directory with MCCORE_BASE_DIR (`mccore setup`)"
            yield Diagnosis(name, "fail", f"{there} can't be written to", hint)
            continue
        free = shutil.disk_usage(there).free
        state: State = "ok" if free >= 5 << 30 else "warn" if free >= 1 << 30 else "fail"
        yield Diagnosis(
            name, state, f"{directory}, {size(free)} free", "free some space, or choose another MCCORE_BASE_DIR"
        )


# --- credentials and endpoints ------------------------------------------------------------------------------------------


def check_credentials() -> Iterator[Diagnosis]:
    """Whether credentials are set; never what they are."""
    yield _check_settings_file()
    for variable, purpose in (("WANDB_API_KEY", "wandb online"), ("HF_TOKEN", "gated data sets")):
        found = bool(os.environ.get(variable, "").strip())
        yield Diagnosis(variable, "ok", "set" if found else f"not set; only needed for {purpose}")


def _check_settings_file() -> Diagnosis:
    directory = paths.working_directory()
    if directory is None:
        return Diagnosis(settings.FILE_NAME, "warn", "the working directory was deleted", "change to another one")
    path = directory / settings.FILE_NAME
    try:
        values = settings.read_settings()
    except MccoreError as error:
        return Diagnosis(settings.FILE_NAME, "fail", error.message, error.hint or "")
    if not path.exists():
        return Diagnosis(settings.FILE_NAME, "ok", "none in this directory; `mccore setup` writes one")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        return Diagnosis(settings.FILE_NAME, "warn", "others can read it", f"chmod 600 {settings.FILE_NAME}")
    return Diagnosis(settings.FILE_NAME, "ok", f"{len(values)} settings, readable by its owner alone")


def check_endpoints() -> Iterator[Diagnosis]:
    """Configured telemetry endpoints: does anything answer there?"""
    configured = [(name, os.environ[name].strip()) for name in _ENDPOINTS if os.environ.get(name, "").strip()]
    if not configured:
        yield Diagnosis("telemetry", "ok", "no endpoint is configured")
        return
    with ThreadPoolExecutor(len(configured)) as pool:
        yield from pool.map(lambda item: check_endpoint(*item), configured)


def check_endpoint(variable: str, address: str) -> Diagnosis:
    """Connect to one endpoint. Credentials in the address aren't shown."""
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        return Diagnosis(variable, "fail", "its value is no address", "write it as http://HOST:PORT")
    port = port or {"https": 443}.get(parts.scheme, _ENDPOINTS.get(variable, 80))
    try:
        with socket.create_connection((host, port), _CONNECT_SECONDS):
            return Diagnosis(variable, "ok", f"{host}:{port} answers")
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        hint = "start the server, correct the address, or unset the variable; training goes on without it"
        return Diagnosis(variable, "fail", f"{host}:{port} doesn't answer: {reason}", hint)


CHECKS: tuple[Callable[[], Iterator[Diagnosis]], ...] = (
    check_versions,
    check_machine,
    check_places,
    check_plugins,
    check_credentials,
    check_endpoints,
)
