"""What to look at when a run is over: is it complete, do its losses hold, are its checkpoints sound, does its model answer?

Every item passes, fails, or is skipped with the reason. Nothing is written into the run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mccore.config.stages import ENCODED_STAGES, REPORT_STAGE, TRAINING_STAGES, stage_spec
from mccore.config.training import EncodedTrainConfig
from mccore.errors import MccoreError
from mccore.events import Event, read_events
from mccore.report.collect import collect
from mccore.runs.checkpoints import (
    incomplete_checkpoints,
    latest,
    list_checkpoints,
    read_meta,
    read_sums,
    step_of,
    verify_files,
)
from mccore.runs.rundir import RunDir
from mccore.runs.series import curves
from mccore.runtime.open import OpenModel, find_checkpoint, open_on
from mccore.runtime.runtime import look_at
from mccore.scaling.plan import stage_config

Status = Literal["pass", "fail", "skipped"]

PROMPTS = ("Hello! Who are you?", "What is 12 + 7?", "Write one sentence about the sea.")
NEW_TOKENS = 32
MOST_FIRST_SECONDS = 10.0  # until an answer begins; a person has left by then
LEAST_TOKENS_PER_SECOND = 1.0
SAME_LOSS = 0.005  # share of a loss: another device, another compute type
PARITY = 0.02  # share of a loss by which a run may stand behind the one it is compared with
MOST_VAL_TOKENS = 2**20  # of one validation loss that is computed again
_BY_CHOICE = ("not among the stages of this run", "eval.", "megacontext.")  # why a reader was told to expect nothing


@dataclass(frozen=True)
class CheckItem:
    """One item of the list. `values` are the figures behind the words."""

    name: str
    status: Status
    detail: str
    values: dict[str, Any] = field(default_factory=dict)


def check_run(run: RunDir, *, against: RunDir | None = None, device: str = "auto") -> list[CheckItem]:
    """The whole list, in order. against: a run whose validation losses this one should reach.

    Raises nothing that a damaged run is at fault for: that is an item that fails.
    """
    events = read_events(run.events_dir)
    return [
        complete_stages(run),
        complete_report(run, events),
        *losses_of(run, events),
        *losses_again(run, device),
        *(parity(run, against) if against is not None else ()),
        *audit(run),
        answers(run, device),
    ]


def complete_stages(run: RunDir) -> CheckItem:
    """Whether every stage left its result."""
    missing = [stage for stage in run.config.stages if not run.completed(stage)]
    state = run.outcome().state
    if missing:
        return CheckItem(
            "stages", "fail", f"the run is {state}: no result of {', '.join(missing)}", {"missing": missing}
        )
    return CheckItem("stages", "pass", f"all {len(run.config.stages)} stages are complete")


def complete_report(run: RunDir, events: list[Event]) -> CheckItem:
    """Whether the report was written and says all that a reader of this run may expect."""
    try:
        absent = [entry for entry in collect(run, events)["missing"] if not entry["why"].startswith(_BY_CHOICE)]
    except MccoreError as error:
        return CheckItem("report", "fail", error.message)
    if REPORT_STAGE not in run.config.stages:
        return CheckItem("report", "skipped", "the run has no report stage; `mccore report` writes one at any time")
    if gone := [name for name in ("report.md", "report.json") if not (run.report_dir / name).is_file()]:
        return CheckItem("report", "fail", f"{', '.join(gone)} is missing: `mccore report {run.name}` writes it")
    if absent:
        said = "; ".join(f"{entry['what']} ({entry['why']})" for entry in absent)
        return CheckItem("report", "fail", f"it lacks {said}", {"missing": [entry["what"] for entry in absent]})
    return CheckItem("report", "pass", "nothing is missing but what the configuration leaves out")


def losses_of(run: RunDir, events: list[Event]) -> Iterator[CheckItem]:
    """Whether each training loss is a number throughout and ended below where it began."""
    found = curves(events)
    for stage in _stages(run, ENCODED_STAGES):
        name = f"loss of {stage}"
        bad = [
            event.step
            for event in events
            if event.stage == stage and event.type == "step" and not math.isfinite(event.metrics.get("loss", 0.0))
        ]
        metrics = found.get(stage, {})
        points = metrics.get("token_loss") or metrics.get("loss") or []
        if bad:
            yield CheckItem(
                name, "fail", f"it wasn't a number at step {bad[0]} and {len(bad) - 1} others", {"steps": bad[:100]}
            )
        elif len(points) < 2:
            yield CheckItem(name, "skipped", "the run recorded no steps of it")
        else:
            tenth = max(1, len(points) // 10)
            first, last = (sum(y for _, y in part) / tenth for part in (points[:tenth], points[-tenth:]))
            status: Status = "pass" if last < first else "fail"
            yield CheckItem(name, status, f"{first:.4f} -> {last:.4f}", {"first": first, "last": last})


def losses_again(run: RunDir, device: str) -> Iterator[CheckItem]:
    """Whether each stage's newest checkpoint has the validation loss that the stage recorded."""
    for stage in _stages(run, ENCODED_STAGES):
        name = f"validation loss of {stage} again"
        try:
            yield _again(run, stage, name, device)
        except MccoreError as error:
            yield CheckItem(name, "fail", error.message)


def _again(run: RunDir, stage: str, name: str, device: str) -> CheckItem:
    recorded = (run.read_result(stage) or {}).get("val_loss")
    if not isinstance(recorded, int | float):
        return CheckItem(name, "skipped", "the stage recorded none")
    runtime, section = look_at(run, stage), stage_config(run.config, stage)
    assert isinstance(section, EncodedTrainConfig)
    if section.eval_tokens > MOST_VAL_TOKENS:
        why = f"it takes {section.eval_tokens:,} tokens, more than {MOST_VAL_TOKENS:,}; `mccore eval` measures it"
        return CheckItem(name, "skipped", why)
    if not runtime.has_store(stage):
        return CheckItem(name, "skipped", f"its tokens aren't in {runtime.cache} any more")
    path = latest(run.checkpoint_dir(stage))
    if path is None:
        return CheckItem(name, "fail", "the stage has no checkpoint")
    gpt = open_on(path, device).gpt
    found = runtime.validate(gpt, runtime.rows(stage, "val"), section.eval_tokens, section.micro_batch_rows).val_loss
    same = abs(found - recorded) <= SAME_LOSS * abs(recorded)
    said = f"{found:.4f}, recorded {recorded:.4f}"
    return CheckItem(name, "pass" if same else "fail", said, {"found": found, "recorded": recorded})


def parity(run: RunDir, against: RunDir) -> Iterator[CheckItem]:
    """Whether validation losses are within PARITY of another run's, or below."""
    for stage in _stages(run, ENCODED_STAGES):
        name = f"loss parity of {stage}"
        try:
            ours, theirs = ((each.read_result(stage) or {}).get("val_loss") for each in (run, against))
        except MccoreError as error:
            yield CheckItem(name, "fail", error.message)
            continue
        if not isinstance(ours, int | float) or not isinstance(theirs, int | float):
            who = run.name if not isinstance(ours, int | float) else against.name
            yield CheckItem(name, "skipped", f"{who} recorded no validation loss of {stage}")
            continue
        status: Status = "pass" if ours <= theirs * (1 + PARITY) else "fail"
        said = f"{ours:.4f} beside {theirs:.4f} of {against.name}, {100 * (ours / theirs - 1):+.1f} %"
        yield CheckItem(name, status, said, {"ours": ours, "theirs": theirs})


def audit(run: RunDir) -> Iterator[CheckItem]:
    """Whether every checkpoint is whole, fits the run and is the one that its stage ended with."""
    for stage in _stages(run, TRAINING_STAGES):
        name = f"checkpoints of {stage}"
        try:
            paths = list_checkpoints(run.checkpoint_dir(stage))
            broken = [path.name for path in incomplete_checkpoints(run.checkpoint_dir(stage))]
            if not paths or broken:
                yield CheckItem(name, "fail", f"incomplete: {', '.join(broken)}" if broken else "there is none")
                continue
            yield CheckItem(name, "pass", _audited(run, stage, paths), {"steps": [step_of(path) for path in paths]})
        except MccoreError as error:
            yield CheckItem(name, "fail", error.message)


def _audited(run: RunDir, stage: str, paths: Sequence[Path]) -> str:
    """What was found of sound checkpoints. Raises CheckpointError, RunError."""
    from mccore.data.tokenizer.tokenizer import Tokenizer
    from mccore.errors import CheckpointError
    from mccore.runtime.models import checkpoint_config
    from mccore.runtime.open import require_tokenizer
    from mccore.train.checkpoint.read import stored_shapes

    tokenizer = Tokenizer.load(run.tokenizer_dir)
    for path in paths:
        sums = read_sums(path)
        verify_files(path, sums, sorted(sums))
        meta = read_meta(path)
        require_tokenizer(meta, tokenizer, run.tokenizer_dir)
        config = checkpoint_config(path, meta, stored_shapes(path))
        if (meta.stage, meta.step) != (stage, step_of(path)) or config.model != run.config.model:
            raise CheckpointError(f"{path} isn't of this run's {stage}: it says {meta.stage}, step {meta.step}")
    claimed = (run.read_result(stage) or {}).get("step")
    if claimed is not None and claimed != step_of(paths[-1]):
        raise CheckpointError(f"{stage} ended at step {claimed}, and its newest checkpoint is {paths[-1].name}")
    return f"{len(paths)} sound, every file's checksum is right; the newest is of step {step_of(paths[-1]):,}"


def answers(run: RunDir, device: str) -> CheckItem:
    """Whether the model that people would talk to answers, and how soon."""
    name = "chat"
    try:
        stage, path = find_checkpoint(run, None)
        replies, values = _converse(run, open_on(path, device), plain=not stage_spec(stage).chat)
    except MccoreError as error:
        return CheckItem(name, "fail", error.message)
    said = (
        f"{len(PROMPTS)} messages to {stage}: first token after {1000 * values['first_token_seconds']:.0f} ms at most, "
        f"then {values['tokens_per_second']:.1f} tokens/s"
    )
    values = {**values, "stage": stage, "replies": replies}
    if not any(reply.strip() for reply in replies):
        return CheckItem(name, "fail", f"{said}; every reply is empty", values)
    slow = values["tokens_per_second"] < LEAST_TOKENS_PER_SECOND and values["new_tokens"] > len(PROMPTS)
    if slow or values["first_token_seconds"] > MOST_FIRST_SECONDS:
        return CheckItem(name, "fail", f"{said}: slower than a person waits", values)
    return CheckItem(name, "pass", said, values)


def _converse(run: RunDir, opened: OpenModel, *, plain: bool) -> tuple[list[str], dict[str, Any]]:
    """One conversation, greedily: in a session where the run has them. Returns the replies and what they took."""
    from mccore.data.tokenizer.reply import prose
    from mccore.generate.chat import ChatSession
    from mccore.generate.memory import SessionMemory, TextMemory, WindowMemory
    from mccore.generate.sampling import Sampling

    engine = opened.engine()
    if run.config.megacontext.enabled:
        memory: Any = SessionMemory(engine, opened.sessions().new(), plain=plain)
    else:
        memory = TextMemory(engine) if plain else WindowMemory(engine)
    session = ChatSession(opened.tokenizer, memory, Sampling(max_new_tokens=NEW_TOKENS))
    replies = [prose(tuple(session.ask(prompt))) for prompt in PROMPTS]
    took = sum(turn.seconds - turn.first_token_seconds for turn in session.turns)
    new = sum(turn.new_tokens for turn in session.turns)
    later = sum(max(0, turn.new_tokens - 1) for turn in session.turns)
    return replies, {
        "new_tokens": new,
        "first_token_seconds": max(turn.first_token_seconds for turn in session.turns),
        "tokens_per_second": later / took if took > 0 else 0.0,
    }


def _stages(run: RunDir, among: Sequence[str]) -> list[str]:
    return [stage for stage in among if stage in run.config.stages]
