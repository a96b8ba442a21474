"""What plugins implement. Six kinds, one small contract each; nothing else of mccore is in their reach.

A plugin is one module: an options model, a class and a hook that returns an `Extension` (a `Recipe` for recipes). Its
entry-point name is what a user types. `mccore plugins new KIND NAME` writes one that works, with its tests.

Arrays are NumPy arrays. `B` is rows (sessions or sequences), `W` the entries of a Working Context, `K` the block size,
`n` the tokens of a history. A node `(level, index)` covers tokens `[index * K**level, (index + 1) * K**level)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from mccore.config import RunConfig
from mccore.events import Event

# How a plugin writes a file of its own, whole or not at all (RunError), and reads its JSON: files bounded and regular, depth
# and digits bounded (OSError or ValueError).
from mccore.host.files import write_atomic as write_atomic
from mccore.host.json_file import parse_json as parse_json
from mccore.host.json_file import read_json as read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

API_VERSION = 1


class Options(BaseModel):
    """Base of a plugin's options: frozen, every field with a default and a description, unknown names refused.

    They are written into `run.json` and shown: a password or key isn't an option, the variable that holds it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class AllocatorOptions(Options):
    """Base of an allocator's options. A Working Context that is small takes fewer recent tokens than this says."""

    recent_tokens: int = Field(128, ge=0, description="newest tokens that always stay at LOD0")


T_co = TypeVar("T_co", covariant=True)

Reads = Literal["scores", "found"]
"""What an allocator goes by: LensNet's scores, or the spans that a search found."""


@dataclass(frozen=True)
class Extension(Generic[T_co]):
    """What a hook returns: how to build the thing, and the options that building takes.

    `build(options, context)` gets an instance of `options` and the context of its kind: `TreeSpec` for tree backends,
    `AllocatorSpec` for allocators, `TelemetrySpec` for telemetry providers, `PanelSpec` for panels, `TaskSpec` for tasks.

    `reads` is for allocators: where `scores` isn't in it, all scores are 0 and LensNet isn't asked; a user who asks for a
    search and an allocator without `found` is told so before anything starts. Left out, attributes `reads_scores` and
    `reads_found` of what is built count, as they did before `reads` was there.
    """

    build: Callable[[Any, Any], T_co]
    options: type[Options] = Options
    summary: str = ""
    reads: tuple[Reads, ...] | None = None


# --- trees ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LevelSpec:
    """The rows of one level: `shape` of a row (empty for token ids) and its NumPy dtype name."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class TreeSpec:
    """What a tree backend stores: one `LevelSpec` per level, level 0 first.

    `directory` is the backend's own, made by it when missing; None for one that needs no directory, such as `ram`. The two
    ways of opening below are for a directory that holds a tree; with either, no levels mean those that are stored. A backend
    that offers `read_only` is a `SharedTree`, one that offers `salvage` a `RepairableTree`; the others ignore both, and core
    doesn't ask them.
    """

    levels: tuple[LevelSpec, ...]
    directory: Path | None = None
    read_only: bool = False
    """Show what the last completed flush left, beside a writer or without one: no lock, no write, and appending is an error."""
    salvage: bool = False
    """Open in spite of damaged rows, to find and mend them. No rows can be appended, and reading damaged ones may be an error."""


@dataclass(frozen=True)
class TreeDamage:
    """Rows `[start, stop)` of a level that aren't known to be those that were appended, because `what` is wrong with the
    bytes `[first_byte, stop_byte)` of a file."""

    level: int
    start: int
    stop: int
    path: Path
    first_byte: int
    stop_byte: int
    what: str


@runtime_checkable
class TreeBackend(Protocol):
    """Append-only array storage, one growing array per level. It knows nothing of blocks, gists or coverage.

    Rows never change once appended. Not shared between threads. A level outside the spec is an IndexError everywhere.
    """

    def length(self, level: int) -> int:
        """Rows of a level, appended ones included before `flush`."""

    def append(self, level: int, rows: NDArray[Any]) -> None:
        """Add rows `[m, *shape]` of the level's dtype. Raises ValueError on another shape or dtype, and then adds nothing."""

    def read(self, level: int, start: int, stop: int) -> NDArray[Any]:
        """Rows `[start, stop)` as `[stop - start, *shape]`, read-only or a copy. Raises IndexError outside the level."""

    def flush(self) -> None:
        """Make everything appended survive a crash of the process, where the backend has a directory."""

    def close(self) -> None:
        """Flush and let go of files; harmless when called twice. What was read before stays readable."""


@runtime_checkable
class SharedTree(TreeBackend, Protocol):
    """A backend of which any number can be open with `TreeSpec.read_only` beside one that isn't."""

    levels: tuple[LevelSpec, ...]

    def refresh(self) -> bool:
        """Show what has been flushed since, and say whether that is more. What was read before stays as it was."""


@runtime_checkable
class RepairableTree(TreeBackend, Protocol):
    """A backend that can tell which rows are damaged and take them anew; `TreeSpec.salvage` opens it whatever its state.

    `damage` works with `read_only` too; `restore` and `truncate` need a tree opened with `salvage` and without `read_only`.
    """

    levels: tuple[LevelSpec, ...]

    def damage(self) -> tuple[TreeDamage, ...]:
        """Every damaged stretch, level by level, in the order of rows; reads all that is stored."""

    def restore(self, level: int, start: int, rows: NDArray[Any]) -> bool:
        """Put `rows` in place of `[start, start + len(rows))`, which the caller vouches for. Says whether the checksums of
        what was appended there match; where they don't, these rows are what counts from now on."""

    def truncate(self, lengths: tuple[int, ...]) -> Path:
        """Cut every level to its length, and give the place where a copy of the tree as it was is kept."""


# --- allocators -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AllocatorSpec:
    """What stays the same over an allocator's life: block size, coarsest level, and a seed for those that sample."""

    block_size: int
    max_lod: int
    seed: int = 0


@dataclass(frozen=True)
class Found:
    """Spans of tokens that a search of the histories holds for worth showing: F of them, in any order.

    They may lie anywhere before the newest tokens, under a coarse entry or where tokens are shown already. Spans of one row
    don't overlap, and start and stop are multiples of the block size. Scores are positive and compare within a row.
    """

    row: NDArray[np.int64]  # [F]
    start: NDArray[np.int64]  # [F]
    stop: NDArray[np.int64]  # [F]
    score: NDArray[np.float64]  # [F]


@dataclass(frozen=True)
class FocusView:
    """What an allocator sees: B Working Contexts side by side, padded to the longest with `level == -1`.

    Entries are in the order of time and tile the history `[0, n)` of their row; the last `recent_tokens` tokens are at
    LOD0. `score` in (-1, 1): positive needs detail, negative can shrink. `age` counts the refocuses an entry has kept its
    level. Under padding, index, score and age mean nothing. `found` is None where nothing searches the histories.
    """

    level: NDArray[np.int8]  # [B, W]
    index: NDArray[np.int64]  # [B, W]
    score: NDArray[np.float32]  # [B, W]
    age: NDArray[np.int32]  # [B, W]
    tokens: NDArray[np.int64]  # [B], n of each row
    found: Found | None = None


@dataclass(frozen=True)
class Budget:
    """Limits of a refocus: `entries` a row may have afterwards (W)."""

    entries: int


@dataclass(frozen=True)
class Edits:
    """A set of edits for B rows, applied per row as one transaction or refused whole.

    `expand` lists nodes `(row, level, index)` to replace by their K children; `collapse` lists **parents**
    `(row, level, index)` whose K children, all present, become the parent. The order means nothing, and an edit may build
    on another of its kind: 32 blocks and the node above them can be collapsed at once.
    """

    expand: NDArray[np.int64]  # [E, 3]
    collapse: NDArray[np.int64]  # [C, 3]


@runtime_checkable
class Allocator(Protocol):
    """A pure decision: scores in, edits out. Everything it may know is in the view; core checks legality afterwards.

    The recent tail that must stay tokens is the allocator's own `recent_tokens` option (`AllocatorOptions`) and is published
    as an attribute. What it goes by stands in its `Extension.reads`.
    """

    recent_tokens: int

    def plan(self, view: FocusView, budget: Budget) -> Edits:
        """Edits that leave every row within the budget, and its last `recent_tokens` tokens at LOD0.

        A row whose shortest cut (everything collapsed as far as `max_lod` and the tail allow) is still over the budget is
        collapsed that far.
        """


# --- telemetry --------------------------------------------------------------------------------------------------------


Service = Literal["train", "chat", "serve"]


@dataclass(frozen=True)
class TelemetrySpec:
    """Who is speaking: the run, its directory, a rank, the resolved configuration, and how patient core is.

    A provider may speak for several ranks: every event says whose it is. Whatever it has to remember from one start of the
    run to the next (an id, a port, events that couldn't be sent) belongs into `files`.
    """

    run: str
    directory: Path
    rank: int
    config: RunConfig
    ranks: int = 1
    """Ranks whose events come here: `rank`, `rank + 1`, ..."""
    service: Service = "train"
    """What kind of process it is."""
    run_id: str = ""
    """32 hexadecimal digits that no other run has, the same after a resume; empty where nothing was trained or kept."""
    attempt: int = 1
    """Which start of the run this is, from 1."""
    commit: str = ""
    """git commit of mccore, empty for an installed package."""
    patience_seconds: float = 2.3
    """What a call may take: `close` is abandoned after it, and a longer `record` or `flush` loses events while it lasts."""

    @property
    def files(self) -> Path:
        """The providers' own place in the run's directory, to be made when it is needed; begin names with the provider's."""
        return self.directory / "telemetry"


class EventsLost(Exception):
    """Raised by a provider that knows how many of the events it took can't be delivered any more, the current one included."""

    def __init__(self, count: int, why: str) -> None:
        super().__init__(why)
        self.count = count


@runtime_checkable
class TelemetryProvider(Protocol):
    """Sends events somewhere. Called from one background thread only; it may be slow, block or raise without harm to a run.

    Events that `record` took count as delivered when a later `flush` or `close` returns, so one that buffers has nothing to
    count. What is raised is told to the user, once until it works again: no password or key may be in it. A process that
    is forked off may end without a call; it must neither hang nor send what its parent holds.
    """

    def record(self, event: Event) -> None:
        """Take one event. Raise when it is lost: another exception than `EventsLost` stands for this event alone."""

    def flush(self) -> None:
        """Send what is buffered; called every few seconds. Raise while that fails: `EventsLost` for events that are given up,
        anything else when they are kept for another try."""

    def close(self) -> None:
        """Send what is buffered within `TelemetrySpec.patience_seconds` and let go of connections; called once. Another
        exception than `EventsLost` means that nothing since the last good flush arrived."""


@runtime_checkable
class Placed(Protocol):
    """A provider that knows where its events go: what a run and `mccore doctor telemetry` say of it once it took some."""

    def place(self) -> str:
        """Where events go, such as a file or an address, and why there; empty where they are simply sent."""


# --- tasks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskSpec:
    """What a task is built for: a directory of its own for what it keeps, made by it when missing."""

    directory: Path


@dataclass(frozen=True)
class Question:
    """A question and its right answer.

    `id` names what it is about: questions with one id are one, and mccore holds questions out by it, the same for every seed.
    `choices`: the answers to choose from, the right one among them; without them a model replies freely. `reply`: what to
    train on where that says more than the answer. `kind`: results are broken down by it.
    """

    id: str
    text: str
    answer: str
    choices: tuple[str, ...] = ()
    reply: str = ""
    kind: str = ""


@runtime_checkable
class QuestionSource(Protocol):
    """Questions with known answers, for mixtures, evaluations and rewards alike. All of its questions have choices, or none."""

    def questions(self) -> Iterable[Question]:
        """All of them, the same in every process: ranks ask at once, and a run compares them when it goes on."""

    def score(self, question: Question, said: str) -> float:
        """How right a free reply is, from 0 to 1, which counts as correct; the reward, too. Choices are judged without it."""


# --- recipes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """A named, complete configuration. `profiles` holds overrides (dotted path -> value) for kinds of machines, by `--gpu`."""

    config: RunConfig
    summary: str = ""
    profiles: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)


# --- panels -----------------------------------------------------------------------------------------------------------

Role = Literal[
    "", "strong", "dim", "good", "warning", "bad", "line", "range", "axis", "alert", "cursor", "edited", "level0", "level1",
    "level2", "level3",
]  # fmt: skip


class Span(NamedTuple):
    """A part of a line. `band`: it lies in the band of a metric, and is shaded."""

    text: str
    role: Role = ""
    band: bool = False


@dataclass(frozen=True)
class PanelSpec:
    """What a panel is built for: the directory of the run that is watched."""

    directory: Path


@runtime_checkable
class RunView(Protocol):
    """What a panel may know of a run at this moment. `shades`: a character for LOD0, LOD1, LOD2 and what is coarser."""

    run: str
    stage: str
    ascii_only: bool
    shades: str

    def value(self, metric: str) -> float | None:
        """The newest value of a metric; None while there is none."""

    def events(self, kind: str) -> Sequence[Event]:
        """The newest, oldest first: `alert`, `sample`, `checkpoint`, or the stage's `working_context_snapshot`."""

    def plot(self, metric: str, width: int, height: int) -> Sequence[Sequence[Span]]:
        """The curve of a metric of the stage with title, band, alerts and cursor, in the axis that is chosen."""

    def contexts(self) -> tuple[Event | None, Event | None]:
        """The `working_context_snapshot` that is looked at, and the one before it."""

    def levels(self, snapshot: Event, cells: int) -> Sequence[int]:
        """The finest level in each of so many equal parts of a snapshot's history. Raises ValueError for a damaged one."""

    def changed(self, before: Event, snapshot: Event, cells: int) -> Sequence[bool]:
        """Which of the parts show another level than in `before`. Raises ValueError."""


@runtime_checkable
class Panel(Protocol):
    """A rectangle of the monitor, shown once the run has one of the metrics and event types of `reads`; always without any."""

    title: str
    place: Literal["plot", "wide", "screen"]
    reads: tuple[str, ...]

    def draw(self, view: RunView, width: int, height: int) -> Sequence[Sequence[Span]]:
        """At most `height` lines of `width` columns, within 10 ms and without I/O: it is called on the thread of the keys."""
