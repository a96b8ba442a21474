"""Reinforcement learning: the reward rises, and a stage that was stopped, or done by several ranks, is the same stage."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mccore.config import RunConfig
from mccore.errors import DataError
from mccore.events import Event, check_event, read_events
from mccore.report.collect import collect
from mccore.report.pages.summary import render_report
from mccore.runs.checkpoints import latest
from mccore.runs.rundir import RunDir
from mccore.runtime.open import open_model
from mccore.runtime.runtime import Stopped
from mccore.stages.preflight import check_sources
from tests.support.small_run import losses, start_worker

SHORT = {"questions": 2, "samples": 4, "eval_questions": 4, "eval_samples": 2}


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Sums of two numbers of two digits, worked out with the calculator: those of a teacher who subtracts every other time, and
    others that are right."""
    rng = random.Random(0)
    lessons, questions = [], []
    for first in range(10, 100):
        for second in range(10, 100):
            if (draw := rng.random()) < 0.1:
                lessons.append(_worked(first, second, "+-"[len(lessons) % 2]))
            elif draw < 0.2:
                questions.append(_worked(first, second, "+"))
    folder = tmp_path_factory.mktemp("sums")
    for name, lines in (("lessons", lessons), ("questions", questions)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "lessons.jsonl", folder / "questions.jsonl"


def _worked(first: int, second: int, sign: str) -> list[dict]:
    result = str(first + second if sign == "+" else first - second)
    parts = [("python", f"{first}{sign}{second}"), ("python_output", result), ("text", result)]
    reply = [{"type": kind, "text": text} for kind, text in parts]
    return [{"role": "user", "content": f"{first}+{second}"}, {"role": "assistant", "content": reply}]


@pytest.fixture(scope="module")
def configured(make_config: Callable[..., RunConfig], sums: tuple[Path, Path]) -> Callable[..., RunConfig]:
    """`configured(questions, seed=1, **sections)`: fine-tuning on lessons, then rewards for so many questions."""

    def make(count: int, *, seed: int = 1, rl: dict | None = None, **sections: dict) -> RunConfig:
        lessons, questions = (f"jsonl:{path}" for path in sums)
        plain = {"weight_decay": False, "warmup_steps": 0, "final_lr_fraction": 0.0}
        sft = {"tokens": 40_000, "mixture": {lessons: 700}, **plain, "warmdown_ratio": 0.5, **sections.pop("sft", {})}
        settings = {
            "mixture": {questions: count},
            "max_new_tokens": 20,
            "lr_scale": 0.15,
            **plain,
            "warmdown_ratio": 1.0,
        }
        settings |= rl or {}
        model = {"n_embd": 64, "head_dim": 16}
        config = make_config(model=model, optim={"lr_batch_scale": 1.0}, sft=sft, rl=settings, **sections)
        return config.model_copy(update={"stages": ("sft", "rl", "report"), "seed": seed})

    return make


@pytest.fixture(scope="module")
def begin(new_run, in_process, configured) -> Callable[[str, RunConfig], RunDir]:
    """`begin(name, config)`: a run whose fine-tuning is done: the same model for all of them, which is right now and then."""
    tuned = new_run("rl-tuned", configured(8))
    tuned.write_result("sft", in_process(tuned, "sft"))

    def make(name: str, config: RunConfig) -> RunDir:
        run = new_run(name, config)
        for folder in ("checkpoints", "results"):
            shutil.copytree(tuned.path / folder, run.path / folder)
        return run

    return make


def _steps(run: RunDir) -> list[Event]:
    return [event for event in read_events(run.events_dir) if event.type == "step" and event.stage == "rl"]


@pytest.fixture(scope="module")
def practised(begin, configured, in_process) -> dict[int, RunDir]:
    """The stage for three seeds."""
    runs = {}
    for seed in (1, 2, 3):
        rl = {"questions": 8, "samples": 8, "eval_questions": 40, "eval_samples": 4, "sample_every_tokens": 10_000}
        runs[seed] = begin(f"rl-{seed}", configured(160, seed=seed, rl=rl))
        runs[seed].write_result("rl", in_process(runs[seed], "rl"))
    return runs


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_reward_rises_and_so_does_what_was_held_out(practised: dict[int, RunDir], seed: int) -> None:
    run = practised[seed]
    rewards = [event.metrics["reward"] for event in _steps(run)]
    assert len(rewards) == 20
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.1
    result = run.read_result("rl")
    assert result is not None
    before, after = (result[when]["pass_at"]["1"] for when in ("before", "after"))
    assert 0.1 < before["mean"] < 0.8  # there is something to learn from, and something to learn
    assert after["mean"] - before["mean"] > 2 * (before["stderr"] ** 2 + after["stderr"] ** 2) ** 0.5


def test_events_keep_to_the_schema_and_name_the_rewards(practised: dict[int, RunDir]) -> None:
    events = [event for event in read_events(practised[1].events_dir) if event.stage == "rl"]
    for event in events:
        check_event(event)
    measured = [event for event in events if event.type == "eval"]
    assert [event.step for event in measured] == [0, 20]
    assert measured[0].metrics.keys() == {"pass_at/1", "pass_at/2", "pass_at/4"}
    assert measured[0].metrics["pass_at/1"] <= measured[0].metrics["pass_at/4"]
    assert any(event.type == "sample" for event in events)
    metrics = _steps(practised[1])[0].metrics
    assert {"reward", "reply_tokens", "replies_ended", "questions_mixed", "reply_nll"} <= metrics.keys()
    assert metrics["flops_total"] > 0


def test_the_report_tells_of_rewards(practised: dict[int, RunDir]) -> None:
    run = practised[1]
    page = render_report(collect(run, read_events(run.events_dir)))
    assert "## Reinforcement learning" in page
    assert "pass@4" in page
    assert "| rl | 20 of 20 |" in page


def test_a_stage_that_was_stopped_goes_on_bit_for_bit(begin, configured, in_process) -> None:
    config = configured(8, rl=SHORT)
    whole, stopped = begin("rl-whole", config), begin("rl-stopped", config)
    expected = in_process(whole, "rl")
    stopped.request_stop()
    with pytest.raises(Stopped) as error:
        in_process(stopped, "rl")
    assert error.value.results["step"] == 1
    stopped.clear_stop()
    found = in_process(stopped, "rl")
    assert losses(stopped, "rl") == losses(whole, "rl")
    assert (found["before"], found["after"]) == (expected["before"], expected["after"])
    sums = [(latest(run.checkpoint_dir("rl")) / "SHA256SUMS").read_text() for run in (whole, stopped)]
    tensors = [[line for line in text.splitlines() if "safetensors" in line] for text in sums]
    assert tensors[0] == tensors[1]


def test_two_ranks_ask_and_learn_what_one_does(begin, configured, in_process) -> None:
    config = configured(6, rl=SHORT)
    alone, together = begin("rl-alone", config), begin("rl-together", config)
    expected = in_process(alone, "rl")
    process = start_worker(together, "rl", ranks=2)
    assert process.wait(timeout=600) == 0, together.log_path("rl").read_text()
    found = together.read_result("rl")
    assert found is not None
    assert found["before"] == expected["before"]
    first, other = _steps(alone)[0].metrics, _steps(together)[0].metrics
    for name in ("reward", "reply_tokens", "replies_ended", "questions_mixed", "tokens_total"):
        assert other[name] == pytest.approx(first[name])
    for name in ("loss", "reply_nll", "grad_norm"):
        assert other[name] == pytest.approx(first[name], rel=1e-4)


def test_a_divergence_is_measured_from_where_the_stage_began(begin, configured, in_process) -> None:
    run = begin("rl-kl", configured(6, rl={**SHORT, "kl_weight": 0.1, "lr_scale": 1.0}))
    in_process(run, "rl")
    divergences = [event.metrics["policy_kl"] for event in _steps(run)]
    assert divergences[0] == pytest.approx(0.0, abs=1e-6)
    assert divergences[-1] > 1e-4


def test_with_megacontext_its_networks_stay_as_they_are(new_run, configured, in_process) -> None:
    megacontext = {
        "enabled": True, "block_size": 4, "horizon": 3, "recent_tokens": 8, "expanded_blocks": 1, "refocus_interval": 2,
        "gistnet": {"layers": 1}, "lens": {"layers": 1, "queries": 4},
    }  # fmt: skip
    run = new_run("rl-mc", configured(4, rl=SHORT, megacontext=megacontext, sft={"tokens": 2048}))
    run.write_result("sft", in_process(run, "sft"))
    run.write_result("rl", in_process(run, "rl"))
    before, after = (open_model(latest(run.checkpoint_dir(stage))) for stage in ("sft", "rl"))
    assert after.nets is not None
    kept = dict(before.nets.named_parameters())
    assert all(torch.equal(kept[name], value) for name, value in after.nets.named_parameters())
    assert not torch.equal(before.gpt.head.weight, after.gpt.head.weight)
    session = after.sessions().new()
    session.append(list(range(40)))
    assert torch.isfinite(session.read()).all()


def test_tasks_that_cannot_teach_are_refused_before_anything_runs(configured) -> None:
    config = configured(6, rl=SHORT)
    rl = config.rl.model_copy(update={"mixture": {"stdlib_choice": 10}})
    with pytest.raises(DataError, match="aren't free text"):
        check_sources(config.model_copy(update={"rl": rl}))


def test_questions_without_room_are_told(begin, configured, in_process) -> None:
    run = begin("rl-long", configured(6, rl={**SHORT, "mixture": {"arithmetic": 20}}))
    with pytest.raises(DataError, match=r"none of \d+ questions of arithmetic fits"):
        in_process(run, "rl")


def test_an_empty_mixture_is_told(begin, configured, in_process) -> None:
    config = configured(6)
    run = begin("rl-empty", config.model_copy(update={"rl": config.rl.model_copy(update={"mixture": {}})}))
    with pytest.raises(DataError, match=r"rl\.mixture is empty"):
        in_process(run, "rl")
