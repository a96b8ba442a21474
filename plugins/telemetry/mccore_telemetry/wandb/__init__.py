"""Record a run with Weights & Biases, at its server or in files beside the run that `wandb sync` uploads later.

Charts are drawn over tokens, FLOPs, wall clock, steps or MC effective steps (`axes`). A run that goes on keeps its W&B run,
since the id is that of the run's directory. Only rank 0's events are rows.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from mccore.api import EventsLost, Extension, Options, TelemetryProvider, TelemetrySpec
from mccore.events import Event
from mccore.hookspecs import hookimpl
from mccore_telemetry.shared.batches import Backoff
from mccore_telemetry.shared.names import wandb_name
from mccore_telemetry.wandb.access import Access, Mode, check_mode_variable, choose
from mccore_telemetry.wandb.axes import AXES, TOKENS, Axes
from mccore_telemetry.wandb.extras import Durations, Samples, levels_histogram, upload_report
from mccore_telemetry.wandb.record import Attempt, Record

if TYPE_CHECKING:
    from wandb import Run

_log = logging.getLogger(__name__)
_FLUSH_SECONDS = 1.0  # how much a killed process may lose of what it logged
_INIT_SECONDS = 5.0
_CLOSING = 0.8  # of the patience; the rest is for W&B's own processes
_ID_DIGITS = 16


class WandbOptions(Options):
    """Where the W&B run is and what it is called."""

    mode: Mode = Field(
        "auto", description="online, offline, off; auto: WANDB_MODE, else online where there are a key and a network"
    )
    project: str = Field("", description="project; empty: WANDB_PROJECT, or mccore")
    entity: str = Field("", description="user or team; empty: that of the key")
    group: str = Field("", description="group of runs that belong together")
    tags: tuple[str, ...] = Field((), description="tags of the run")
    system_metrics: bool = Field(False, description="let W&B sample CPU, memory and GPUs of this machine")
    upload_report: bool = Field(True, description="upload the report, its plots and the samples")


class WandbTelemetry:
    """A W&B run from the first event on; see the module."""

    def __init__(self, options: WandbOptions, spec: TelemetrySpec) -> None:
        check_mode_variable()
        self._options = options
        self._spec = spec
        self._run: Run | None = None
        self._access: Access | None = None
        self._record: Record | None = None
        self._axes = Axes()
        self._durations = Durations()
        self._samples = Samples()
        self._skip_until = 0.0  # an earlier process has sent what is older
        self._recorded = 0.0  # time of the newest event taken, as of now ...
        self._before_flush = 0.0  # ... and of the last flush
        self._unsure: deque[dict[str, Any]] = deque()  # rows that may not be in W&B's log yet
        self._backoff = Backoff(first=30.0, longest=600.0)  # between attempts to go on without W&B's process
        self._exit_code = 1  # of a run whose end nobody saw

    def record(self, event: Event) -> None:
        """Log what an event of rank 0 says as one row."""
        if event.rank != self._spec.rank:
            return
        if self._access is None:
            self._start()
        if self._run is None or event.time <= self._skip_until:
            return
        self._axes.follow(event)
        if row := self._row(event):
            self._log({**row, **self._axes.at(event), "_timestamp": event.time})
        self._recorded = max(self._recorded, event.time)

    def place(self) -> str:
        """Whether events stay on this machine or aren't recorded, and why."""
        if self._access is None or self._access.mode == "online":
            return ""
        return (
            f"{'off' if self._access.mode == 'off' else 'recorded offline, in the run directory'}: {self._access.why}"
        )

    def flush(self) -> None:
        """Note what is surely in W&B's log by now: it is written every second, and flushes are seconds apart."""
        if self._record is not None and self._run is not None:
            self._note(self._before_flush)
            while self._unsure and self._unsure[0]["_timestamp"] <= self._before_flush:
                self._unsure.popleft()
            self._before_flush = self._recorded

    def close(self) -> None:
        """End the W&B run, within the run's patience. Raises EventsLost, of none, when the server couldn't take it all."""
        if self._run is None:
            return
        try:
            done = self._finish()
        except _gone():
            self._go_on()
            done = self._finish()
        self._note(self._recorded, closed=done)
        where, self._run = self._run.settings.sync_dir, None
        if not done:
            raise EventsLost(0, f"W&B's server didn't take all in time; `wandb sync {where}` uploads what is missing")
        _end_service()

    def _finish(self) -> bool:
        assert self._run is not None
        run, code = self._run, self._exit_code
        return _within(lambda: run.finish(exit_code=code), _CLOSING * self._spec.patience_seconds)

    def _log(self, row: dict[str, Any]) -> None:
        """Log a row, in a new part of the W&B run where W&B's own process is gone."""
        assert self._run is not None
        self._unsure.append(row)
        try:
            self._run.log(row)
        except Exception as error:  # a row that W&B doesn't take is no reason to begin anew
            if not isinstance(error, _gone()) or not self._backoff.ready:
                self._unsure.pop()
                raise
            self._backoff.failed()
            self._go_on()

    def _go_on(self) -> None:
        """Begin another part of the same W&B run, with the rows that the last one hasn't in its log."""
        import wandb

        assert self._record is not None
        lost_part = self._record.attempts[-1]
        with contextlib.suppress(Exception):  # there is nobody to say goodbye to
            _within(wandb.teardown, _INIT_SECONDS)
        self._begin_part()
        assert self._run is not None
        written = self._record.last_row(lost_part)
        for row in self._unsure:
            if row["_timestamp"] > written:
                self._run.log(row)

    # --- rows ---------------------------------------------------------------------------------------------------------

    def _row(self, event: Event) -> dict[str, Any]:
        row: dict[str, Any] = {wandb_name(name): value for name, value in event.metrics.items()}
        row |= self._durations.add(event.metrics)
        data = event.data
        match event.type:
            case "delta_nll" if isinstance(condition := data.get("condition"), str):
                row |= {f"{wandb_name(name)}/{condition}": value for name, value in event.metrics.items()}
            case "mc_timing":
                numbers = ((name, value) for name, value in data.items() if name.endswith("_ms"))
                row |= {f"mc/timing/{name}": float(value) for name, value in numbers if value is not None}
            case "mc_batch_stats" if data.get("entries_by_level"):
                row["mc/entries_by_level"] = levels_histogram(data["entries_by_level"])
            case "sample":
                self._samples.add(event)
            case "stage.end":
                row |= self._table()
            case "alert":
                self._alert(data)
            case "run.end":
                self._exit_code = 1 if data.get("outcome") == "failed" else 0
                row |= self._table() | self._report()
        return row

    def _table(self) -> dict[str, Any]:
        table = self._samples.table() if self._options.upload_report else None
        return {} if table is None else {"samples": table}

    def _report(self) -> dict[str, Any]:
        if self._run is None or not self._options.upload_report:
            return {}
        return upload_report(self._run, self._spec.directory / "report")

    def _alert(self, data: Mapping[str, Any]) -> None:
        if self._run is not None:
            text = (
                f"{data.get('metric')} is {data.get('value')}, expected {data.get('band')}: {data.get('advice') or ''}"
            )
            self._run.alert(title=f"{self._spec.run}: {data.get('metric')}", text=text)

    # --- the W&B run --------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        # Before the import: W&B's client would report its own use, and faults, to its makers.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        # Else wandb 0.31 imports pandas, 40 MB, to ask whether what is logged is a DataFrame. None is; nor is it a public name.
        wandb.util.pd_available = False
        wandb.setup(wandb.Settings(silent=True))
        self._access = choose(self._options.mode, wandb.setup().settings)
        if self._access.mode == "off":
            _log.warning("wandb is off: %s", self._access.why)
            return
        project = self._options.project or os.environ.get("WANDB_PROJECT", "").strip() or "mccore"
        new_id = (self._spec.run_id or os.urandom(16).hex())[:_ID_DIGITS]
        self._record = Record.read(self._spec.files / "wandb.json", new_id, project)
        self._axes = Axes(self._record.axes)
        self._skip_until = self._record.sent_until()
        self._spec.files.mkdir(parents=True, exist_ok=True)
        self._begin_part()

    def _begin_part(self) -> None:
        """Begin the W&B run, or go on with it in another log."""
        assert self._record is not None
        assert self._access is not None
        self._run = self._init(self._record)
        for axis in AXES:
            self._run.define_metric(axis, hidden=True)
        self._run.define_metric("*", step_metric=TOKENS)
        directory = Path(self._run.settings.sync_dir).absolute()
        self._record.attempts.append(
            Attempt(self._access.mode, self._access.why, f"wandb/{directory.name}", self._skip_until)
        )
        self._record.write()
        later = "" if self._access.mode == "online" else f"; `wandb sync {directory}` uploads it"
        _log.warning("wandb is %s: %s%s", self._access.mode, self._access.why, later)

    def _init(self, record: Record) -> Run:
        """Begin the W&B run; offline, when its server doesn't let it begin within seconds."""
        assert self._access is not None
        if self._access.mode == "online":
            import wandb

            try:
                return self._begin(record, "online")
            except (wandb.Error, OSError, TimeoutError) as error:
                why = f"W&B's server doesn't let it begin: {str(error).splitlines()[0][:200]}"
                self._access = Access("offline", why)
                _end_service()  # it goes on holding the id for one in use
        return self._begin(record, "offline")

    def _begin(self, record: Record, mode: Any) -> Run:
        import wandb

        options, spec = self._options, self._spec
        settings = wandb.Settings(
            silent=True,
            console="off",
            symlink=False,
            disable_git=True,
            disable_code=True,
            disable_job_creation=True,
            init_timeout=_INIT_SECONDS,
            finish_timeout=0.75 * _CLOSING * spec.patience_seconds,
            finish_timeout_raises=True,
            x_disable_stats=not options.system_metrics,
            x_save_requirements=False,
            x_transaction_log_flush_interval=_FLUSH_SECONDS,
        )
        return wandb.init(
            project=record.project,
            entity=options.entity or None,
            group=options.group or None,
            tags=list(options.tags) or None,
            id=record.id,
            name=spec.run,
            dir=str(spec.files),
            mode=mode,
            resume="allow",
            reinit="create_new",  # another run of this process is none of ours
            config=_config(spec),
            settings=settings,
        )

    def _note(self, until: float, *, closed: bool = False) -> None:
        if self._record is None or not self._record.attempts:
            return
        attempt = self._record.attempts[-1]
        attempt.until, attempt.closed = max(attempt.until, until), closed
        self._record.axes = self._axes.to_json()
        self._record.write()


def _config(spec: TelemetrySpec) -> dict[str, Any]:
    """The run's configuration as W&B compares runs by it. It holds no secrets: options name variables."""
    return {**spec.config.model_dump(mode="json"), "run": spec.run, "ranks": spec.ranks, "commit": spec.commit}


def _within(action: Any, seconds: float) -> bool:
    """Do something on a thread that may be left behind; whether it was done in time. Raises what else it raised."""
    failures: list[BaseException] = []

    def act() -> None:
        try:
            action()
        except BaseException as failure:  # raised again by the caller's thread
            failures.append(failure)

    thread = threading.Thread(target=act, name="wandb-finish", daemon=True)
    thread.start()
    thread.join(seconds)
    if failures and not isinstance(failures[0], TimeoutError):
        raise failures[0]
    return not failures and not thread.is_alive()


def _gone() -> tuple[type[Exception], ...]:
    """What W&B's client raises where its own process is gone: its socket is closed, or nobody answers its requests."""
    from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

    return (OSError, HandleAbandonedError, MailboxClosedError)


def _end_service() -> None:
    """End W&B's own process where no other run of this process uses it."""
    import wandb

    if wandb.setup().most_recent_active_run is None:
        wandb.teardown()


@hookimpl
def mccore_telemetry_provider() -> Extension[TelemetryProvider]:
    return Extension(
        build=WandbTelemetry, options=WandbOptions, summary="record runs with Weights & Biases, online or offline"
    )
