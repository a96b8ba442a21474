"""A run is a directory; this is its layout, its lock, its stop file and what became of it.

run.json                 the resolved configuration, written once
events/rank<N>.jsonl     what each rank did; events/launcher.jsonl what the launcher did
logs/<stage>.log         standard output and error of a stage
telemetry/               the run's identity, and what providers keep from one start to the next
results/<stage>.json     what a stage found; it exists when the stage is complete
results/context_suite.json   what `mccore eval context --suite` found
checkpoints/<stage>/     tokenizer/     data/     report/
lock, ranks              held by the launcher and its children, and by every rank
stop                     exists while the run is asked to stop
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mccore.errors import RunError, UsageError
from mccore.events import Event, finite
from mccore.host import paths
from mccore.host.files import RESUME, disk_hint, sync_directory, write_atomic
from mccore.host.json_file import BadJson, read_object
from mccore.runs.last_events import LastEvents
from mccore.runs.lock import RunLock, is_run_held, joined_run, last_holder, take_run

if TYPE_CHECKING:
    from mccore.config import RunConfig

State = Literal["created", "running", "finished", "stopped", "interrupted", "failed", "crashed"]

_STAGE = re.compile(r"[a-z0-9_]{1,40}")  # of this mccore or a newer one
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


@dataclass(frozen=True)
class Outcome:
    """What became of a run: its state, the stage it is in or ended in, one line of why, and what its stage advised.

    `interrupted` is a run ended by force before it could save; `crashed` one that ended without a word; `stopped` one that
    saved and can go on.
    """

    state: State
    stage: str | None = None
    message: str = ""
    hint: str = ""


class RunDir:
    """One run's directory. Nothing is read before it is asked for; nothing is written by reading."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, root: Path, name: str, config: RunConfig) -> RunDir:
        """Make `root/name` with its `run.json`. Raises UsageError for a bad name, RunError when it exists or can't be made."""
        check_name(name)
        path = root / name
        try:
            root.mkdir(parents=True, exist_ok=True)
            path.mkdir()
        except FileExistsError as error:
            if not root.is_dir():
                raise RunError(f"can't make the run directory {path}: {root} isn't a directory") from error
            raise RunError(
                f"the run {name!r} exists already ({path})",
                hint=f"go on with it by `mccore run --resume {name}`, or choose another --name",
            ) from None
        except OSError as error:
            raise RunError(f"can't make the run directory {path}: {error.strerror}", hint=disk_hint(error)) from error
        try:
            write_atomic(path / "run.json", config.to_json())
            sync_directory(root)
        except BaseException:
            with contextlib.suppress(OSError):
                (path / "run.json").unlink(missing_ok=True)
                path.rmdir()
            raise
        return cls(path)

    @classmethod
    def open(cls, selector: str | Path, root: Path | None = None) -> RunDir:
        """An existing run by name, by directory, or `latest`: the one started last. Raises UsageError with close matches."""
        root = paths.runs_dir() if root is None else root
        if str(selector) == "latest":
            runs = list_runs(root)
            if not runs:
                raise UsageError(f"there is no run in {root}", hint="start one with `mccore run tiny`")
            return max(runs, key=lambda run: run.started)
        for path in (root / selector, paths.expand(selector)):
            if (path / "run.json").is_file():
                return cls(path.resolve())
        names = [run.name for run in list_runs(root)]
        close = get_close_matches(str(selector), names, n=3, cutoff=0.5)
        if not close:
            close = [name for name in names if str(selector) in name][:3]
        hint = f"did you mean {' or '.join(close)}?" if close else "`mccore runs` lists those there are"
        raise UsageError(f"there is no run {str(selector)!r} in {root}", hint=hint)

    # --- layout -------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name of the run, which is that of its directory."""
        return self.path.name

    @cached_property
    def config(self) -> RunConfig:
        """The resolved configuration. Raises ConfigError when `run.json` can't be read."""
        from mccore.runs.stored_config import read_config  # it takes longer to import than a list of runs to draw

        return read_config(self.path / "run.json")

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """`run.json` as it is, where nobody needs to know whether all of it is valid. Raises ConfigError if it can't be read."""
        try:
            return read_object(self.path / "run.json")
        except (OSError, BadJson):
            return self.config.model_dump()  # says what is wrong

    def _stages(self) -> Sequence[str]:
        names = self.facts.get("stages")
        if isinstance(names, list) and all(isinstance(each, str) and _STAGE.fullmatch(each) for each in names):
            return names
        return tuple(self.config.stages)

    @property
    def events_dir(self) -> Path:
        return self.path / "events"

    @property
    def tokenizer_dir(self) -> Path:
        return self.path / "tokenizer"

    @property
    def data_dir(self) -> Path:
        return self.path / "data"

    @property
    def report_dir(self) -> Path:
        return self.path / "report"

    def log_path(self, stage: str) -> Path:
        """Where the standard output and error of a stage go."""
        return self.path / "logs" / f"{stage}.log"

    def checkpoint_dir(self, stage: str) -> Path:
        """Where the checkpoints of a stage are."""
        return self.path / "checkpoints" / stage

    def result_path(self, stage: str) -> Path:
        """Where the result of a stage is once it is complete."""
        return self.path / "results" / f"{stage}.json"

    # --- results ------------------------------------------------------------------------------------------------------

    def write_result(self, stage: str, result: dict[str, Any]) -> None:
        """Record what a stage found, which also marks it complete. Numbers that aren't finite become null."""
        text = json.dumps(finite(result), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomic(self.result_path(stage), text, again=RESUME)

    def read_result(self, stage: str) -> dict[str, Any] | None:
        """What a stage found, or None while it isn't complete. Raises RunError for a damaged file."""
        path = self.result_path(stage)
        try:
            return read_object(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunError(f"can't read {path}: {error.strerror}", hint="check its permissions") from error
        except BadJson as error:
            raise RunError(f"{path} is damaged: {error}", hint="delete it: the stage is then done again") from error

    def completed(self, stage: str) -> bool:
        """Whether a stage is complete, so that a resumed run skips it."""
        return self.result_path(stage).is_file()

    # --- stop ---------------------------------------------------------------------------------------------------------

    @property
    def _stop_path(self) -> Path:
        return self.path / "stop"

    def request_stop(self) -> None:
        """Ask the run to save and end."""
        try:
            self._stop_path.touch()
        except OSError as error:
            raise RunError(f"can't ask for a stop in {self.path}: {error.strerror}", hint=disk_hint(error)) from error

    def stop_requested(self) -> bool:
        """Whether the run is asked to save and end; one system call, cheap enough for every step."""
        return os.path.exists(self._stop_path)

    def clear_stop(self) -> None:
        """Withdraw the request."""
        self._stop_path.unlink(missing_ok=True)

    # --- lock ---------------------------------------------------------------------------------------------------------

    def lock(self) -> RunLock:
        """Take the run for this process and the children it hands `fd` to. Raises RunError when others have it."""
        return take_run(self.path)

    def join(self) -> contextlib.AbstractContextManager[None]:
        """Hold the run as one of its ranks. torchrun closes inherited descriptors, so each rank says for itself it's there."""
        return joined_run(self.path)

    def is_running(self) -> bool:
        """Whether a launcher, a child of it or a rank is alive."""
        return is_run_held(self.path)

    def holder(self) -> int | None:
        """The process id of the launcher that took the run last."""
        return last_holder(self.path)

    # --- outcome ------------------------------------------------------------------------------------------------------

    @property
    def started(self) -> float:
        """When the run was last started, seconds since the epoch; when it was created if it never was."""
        event = self.last_event("run.start", "launcher.jsonl")
        try:
            return event.time if event else (self.path / "run.json").stat().st_mtime
        except OSError:
            return 0.0

    def outcome(self) -> Outcome:
        """What became of the run. The last stage event decides; the launcher's word counts where there is none."""
        last = self._last_stage_event()
        ended = self.last_event("run.end", "launcher.jsonl")
        if self.is_running():
            return Outcome("running", last.stage if last and last.type == "stage.start" else None)
        started = self.last_event("run.start", "launcher.jsonl")
        if started and ended and ended.time < started.time:  # of an earlier start
            ended = None
        if last is None and started is None:
            return Outcome("created")
        stage = last.stage if last else None
        if last is not None and last.type == "stage.end" and (started is None or last.time >= started.time):
            told = str(last.data.get("outcome", ""))
            message = str(last.data.get("message") or "")
            if told == "failed":
                return Outcome("failed", stage, message, str(last.data.get("hint") or ""))
            if told == "stopped":
                return Outcome("stopped", stage, message)
        if all(self.completed(name) for name in self._stages()):
            return Outcome("finished", stage)
        if ended is not None:
            state = ended.data.get("outcome")
            if state in ("stopped", "interrupted", "failed"):
                return Outcome(state, stage, str(ended.data.get("message") or ""))
        return Outcome("crashed", stage, "the run ended without saying why")

    def _last_stage_event(self) -> Event | None:
        files = [path.name for path in self.events_dir.glob("*.jsonl")]
        found = [event for name in files if (event := self._last_stage_event_in(name)) is not None]
        # A rank that merely lost its peers may start or end a stage after the root cause: of one moment, the end counts.
        return max(found, key=lambda event: (event.time, event.type == "stage.end"), default=None)

    def _last_stage_event_in(self, file: str) -> Event | None:
        # One search through a long file where two would do: `stage.*` is rare.
        event = self.last_event("stage.*", file)
        if event is not None and event.type not in ("stage.start", "stage.end"):  # it has progress in it
            both = (self.last_event(kind, file) for kind in ("stage.start", "stage.end"))
            return max(filter(None, both), key=lambda event: event.time, default=None)
        return event

    def last_event(self, kind: str, file: str = "rank0.jsonl") -> Event | None:
        """The last event of a type in an event file, found from its end: a long history isn't parsed, nor searched twice."""
        return self._last_events.find(kind, file)

    @cached_property
    def _last_events(self) -> LastEvents:
        return LastEvents(self.events_dir)

    def __repr__(self) -> str:
        return f"RunDir({str(self.path)!r})"


def check_name(name: str) -> None:
    """Raise UsageError unless `name` can be the name of a run."""
    if name == "latest" or not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} can't be the name of a run",
            hint="use letters, digits and . _ + -, starting with a letter or digit; `latest` is taken",
        )


def list_runs(root: Path | None = None) -> list[RunDir]:
    """The runs in `root` (the runs directory by default), by name. What isn't a run is passed over."""
    root = paths.runs_dir() if root is None else root
    try:
        entries = sorted(root.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise RunError(f"can't read {root}: {error.strerror}") from error
    return [RunDir(path) for path in entries if (path / "run.json").is_file()]
