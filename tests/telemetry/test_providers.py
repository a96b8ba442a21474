from __future__ import annotations

import pytest

from mccore.config import Choice, RunConfig
from mccore.runs.rundir import RunDir
from mccore.telemetry.providers import build_providers, describe_process


@pytest.fixture
def run(tmp_path):
    config = RunConfig(telemetry=(Choice(name="noop"), Choice(name="one", options={"port": 7}), Choice(name="two")))
    return RunDir.create(tmp_path, "run", config)


def test_a_run_keeps_its_identity_and_counts_its_starts(run, tmp_path):
    first, second = describe_process(run, ranks=2), describe_process(run)
    other = describe_process(RunDir.create(tmp_path, "other", RunConfig()))
    assert first.run_id == second.run_id != other.run_id
    assert len(first.run_id) == 32
    assert (first.attempt, second.attempt, first.ranks) == (1, 2, 2)
    assert first.files == run.path / "telemetry"


def test_a_damaged_identity_is_made_anew(run):
    describe_process(run)
    (run.path / "telemetry" / "identity.json").write_text("{")
    assert describe_process(run).attempt == 1


def test_options_and_context_reach_the_provider_and_one_that_cant_start_is_left_out(run):
    seen, reports = [], []

    def build(choice, spec):
        seen.append((choice.name, choice.options, spec.run))
        if choice.name == "one":
            raise OSError("the port is taken")
        return choice.name

    providers = build_providers(run.config.telemetry[1:], describe_process(run), reports.append, build)
    assert seen == [("one", {"port": 7}, "run"), ("two", {}, "run")]
    assert providers == [("two", "two")]
    (report,) = reports
    assert (report.provider, report.state, report.lost) == ("one", "failing", 0)
    assert "the port is taken" in report.message


def test_a_provider_that_isnt_there_is_reported_in_the_words_of_the_registry(run):
    reports = []
    assert build_providers(run.config.telemetry[1:], describe_process(run), reports.append) == []
    assert "unknown" in reports[0].message or "no telemetry" in reports[0].message
