"""`mccore run`: dry runs in this process, real ones with stand-in stages in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mccore import plugins
from mccore.cli import main
from mccore.cli.tables import describe
from mccore.config import RunConfig
from mccore.events import read_events
from mccore.host import machine
from mccore.resolve.resolve import resolve
from mccore.runs.rundir import RunDir
from mccore.scaling.estimate import estimate

PROGRAMS = Path(__file__).parent.parent / "launch" / "programs"
SHORT = ("--set", "stages=tokenizer,base", "--nproc", "1")


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A base directory of the test's own, and a working directory without settings."""
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "base"


@pytest.fixture
def mccore(base):
    """Runs the command with stand-in stages; `start` gives the process."""

    def start(*arguments, plan=None):
        def before():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)

        return subprocess.Popen(
            [sys.executable, str(PROGRAMS / "mccore_standin.py"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(PROGRAMS), "STANDIN_PLAN": json.dumps(plan or {})},
            preexec_fn=before,
        )

    def run(*arguments, plan=None):
        process = start(*arguments, plan=plan)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    run.start = start
    return run


def wait_for(condition):
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


class TestDryRun:
    def test_json_is_the_whole_plan_and_nothing_is_written(self, base, capsys):
        assert (
            main(["run", "tiny", "--dry-run", "--json", "--name", "x", "--nproc", "2", "--set", "model.depth=2"]) == 0
        )
        plan = json.loads(capsys.readouterr().out)
        assert plan["run_dir"] == str(base / "runs" / "x")
        config = RunConfig.model_validate(plan["config"])
        assert config.model.depth == 2
        assert config.base.tokens > 0
        assert [item["stage"] for item in plan["commands"]] == list(config.stages)
        by_stage = {item["stage"]: item["command"] for item in plan["commands"]}
        assert "torch.distributed.run" in by_stage["base"]
        assert by_stage["report"][1:] == ["-m", "mccore.launch.worker", plan["run_dir"], "report"]
        assert plan["estimate"]["parameters"]["total"] > 0
        assert plan["estimate"]["stages"]["base"]["steps"] > 0
        assert plan["estimate"]["device"]["measured"] is False
        assert not base.exists()

    def test_text_says_what_it_costs_and_what_the_number_rests_on(self, base, capsys):
        assert main(["run", "tiny", "--dry-run"]) == 0
        out = capsys.readouterr().out
        assert "assumed:" in out
        assert "parameters  " in out
        assert "-m mccore.launch.worker" in out
        assert not base.exists()

    @pytest.mark.parametrize(("has_bf16", "dtype"), [(True, "bf16"), (False, "fp32")])
    def test_a_measured_speed_is_used_and_said(self, base, capsys, monkeypatch, has_bf16, dtype):
        monkeypatch.setattr(machine, "cpu_multiplies_bf16", lambda: has_bf16)
        (base / "cache").mkdir(parents=True)
        devices = {machine.cpu_key(): {"flops_per_second": 1e9, "ranks": 2, "dtype": dtype, "n_embd": 64}}
        (base / "cache" / "machine.json").write_text(json.dumps({"version": 1, "devices": devices}))
        assert main(["run", "tiny", "--dry-run", "--json", "--set", "hardware.device=cpu"]) == 0
        estimate = json.loads(capsys.readouterr().out)["estimate"]
        assert estimate["device"]["flops_per_second"] == 2e9
        assert estimate["device"]["measured"] is True
        assert estimate["seconds"] == pytest.approx(estimate["flops"] / 2e9)
        assert main(["run", "tiny", "--dry-run", "--set", "hardware.device=cpu"]) == 0
        assert "measured here: 2 GFLOP/s at width 64" in capsys.readouterr().out

    def test_megacontext_says_what_was_derived_and_what_it_adds(self, base, capsys):
        sizes = (
            "--mc", "--mc_block_size", "8", "--mc-horizon", "16", "--mc_num_random_variants", "4", "--mc-recent-tokens", "24",
            "--mc-expanded-blocks", "2", "--mc-wc-length-steps", "4", "--mc-recon-weight", "0", "--mc_span_bias",
            "--mc-train-wc-length", "64",
        )  # fmt: skip
        assert main(["run", "tiny", "--dry-run", "--json", *sizes]) == 0
        cost = json.loads(capsys.readouterr().out)["estimate"]
        added = cost["megacontext"]
        assert added["parameters"]["total"] == sum(added["parameters"][name] for name in ("gistnet", "lensnet", "bias"))
        lengths = added["variant_lengths"]
        assert len(lengths) == 4
        assert all(part["gist_only"] < part["expanded"] for part in lengths)
        assert lengths[0]["expanded"] > lengths[-1]["expanded"]
        total = added["flops_per_token"]["total"]
        assert total > 2 * cost["flops_per_token"]
        base_stage = cost["stages"]["base"]
        assert base_stage["flops"] == base_stage["tokens"] * total
        assert main(["run", "tiny", "--dry-run", *sizes]) == 0
        out = capsys.readouterr().out
        for words in (
            "blocks of 8, up to LOD2", "2 gist-only, 2 with 2 blocks expanded",
            f"> {lengths[-1]['gist_only']}/{lengths[-1]['expanded']} through a stage", "the last 24 tokens stay tokens",
            "times the plain model's",
        ):  # fmt: skip
            assert words in out
        assert main(["run", "tiny", "--dry-run"]) == 0
        assert "megacontext blocks" not in capsys.readouterr().out

    def test_derived_lengths_leave_room_for_expanded_blocks(self, base, capsys):
        sizes = (
            "--mc-block-size",
            "32",
            "--mc-horizon",
            "64",
            "--mc-expanded-blocks",
            "2",
            "--mc-wc-length-steps",
            "2",
        )
        derived = ("--set", "megacontext.recent_tokens=null", "--set", "model.max_seq_len=256")
        assert main(["run", "tiny", "--dry-run", "--mc", "--mc-num-random-variants", "2", *sizes, *derived]) == 0
        assert "> 101/163 through a stage" in capsys.readouterr().out
        small = ("--set", "megacontext.train_wc_length=120")
        assert (
            main(["run", "tiny", "--dry-run", "--mc", "--mc-num-random-variants", "2", *sizes, *derived, *small]) == 2
        )
        assert "set megacontext.train_wc_length=163 or more" in capsys.readouterr().err

    def test_a_length_that_no_context_has_is_said(self):
        config = resolve("tiny", sets=["megacontext.enabled=true"])
        megacontext = config.megacontext.model_copy(update={"expanded_blocks": 0, "train_wc_length": 20})
        short = config.model_copy(update={"megacontext": megacontext})
        assert "no context of 20 entries exists" in "\n".join(describe(short, estimate(short)))

    @pytest.mark.parametrize("recipe", plugins.names("recipe"))
    def test_every_recipe_has_a_plan(self, base, capsys, recipe):
        assert main(["run", recipe, "--dry-run", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["config"]["recipe"] == recipe

    def test_telemetry_is_part_of_the_plan_without_what_is_secret(self, base, capsys, monkeypatch):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hunter2-planted")
        monkeypatch.setenv("WANDB_API_KEY", "hunter2-planted")
        assert main(["run", "tiny", "--mc", "--dry-run", "--json"]) == 0
        out = capsys.readouterr().out
        plan = json.loads(out)
        assert [(one["name"], one["why"]) for one in plan["telemetry"]] == [
            ("otel", "OTEL_EXPORTER_OTLP_ENDPOINT is set"), ("wandb", "WANDB_API_KEY is set")
        ]  # fmt: skip
        assert plan["config"]["telemetry"] == [], "it holds for this start"
        assert "hunter2" not in out
        assert main(["run", "tiny", "--mc", "--dry-run", "--json", "--telemetry", "noop"]) == 0
        assert json.loads(capsys.readouterr().out)["telemetry"] == []
        assert main(["run", "tiny", "--mc", "--dry-run"]) == 0
        text = capsys.readouterr().out
        assert "telemetry   otel: OTEL_EXPORTER_OTLP_ENDPOINT is set\n            wandb: WANDB_API_KEY is set" in text

    def test_settings_of_the_working_directory_count_too(self, base, capsys, monkeypatch):
        monkeypatch.setattr(os, "environ", os.environ.copy())
        Path(".mc_env").write_text("MCCORE_PROMETHEUS_PORT=0\n")
        assert main(["run", "tiny", "--dry-run", "--json"]) == 0
        (one,) = json.loads(capsys.readouterr().out)["telemetry"]
        assert (one["name"], one["options"]["port"]) == ("prometheus", 0)

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ('sft.mixture={"jsonl:no-such.jsonl": 5}', "no-such.jsonl doesn't exist"),
            ('sft.mixture={"jsonl:pipe": 5}', "pipe is a pipe, not a file"),
            ('mid.mixture={"no_such_task": 5}', "unknown conversations 'no_such_task'"),
            ('mid.mixture={"stdlib_qa": 0}', "mid.mixture is empty"),
            ("data.corpus=text:no-such.txt", "no-such.txt doesn't exist"),
            ("data.corpus=hf:no-owner", "names no data set of the hub"),
        ],
    )
    def test_sources_that_are_not_there_are_said_after_the_plan(self, base, capsys, setting, message):
        os.mkfifo("pipe")
        assert main(["run", "tiny", "--dry-run", "--set", setting]) != 0
        said = capsys.readouterr()
        assert message in said.err
        assert "commands" in said.out
        assert not base.exists()

    def test_what_only_the_hub_can_tell_is_left_and_named(self, base, capsys, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        sources = ["--set", "data.corpus=climbmix", "--set", 'sft.mixture={"gsm8k": 5, "stdlib_qa": 5, "mmlu": 0}']
        assert main(["run", "tiny", "--dry-run", *sources]) == 0
        assert "not checked, since the hub isn't asked here: climbmix, gsm8k\n" in capsys.readouterr().err

    def test_a_chosen_provider_has_the_options_of_the_environment_below_those_typed(self, base, capsys, monkeypatch):
        monkeypatch.setenv("MCCORE_PROMETHEUS_PORT", "7000")
        monkeypatch.setenv("MCCORE_PROMETHEUS_ADDRESS", "0.0.0.0")
        typed = ["--telemetry", "prometheus", "--set", "telemetry.prometheus.options.port=7001"]
        assert main(["run", "tiny", "--dry-run", "--json", *typed]) == 0
        plan = json.loads(capsys.readouterr().out)
        (choice,) = plan["config"]["telemetry"]
        assert (choice["options"]["port"], choice["options"]["address"]) == (7001, "0.0.0.0")
        assert plan["telemetry"][0]["why"] == "chosen for this run"
        monkeypatch.setenv("MCCORE_PROMETHEUS_PORT", "many")
        assert main(["run", "tiny", "--dry-run", "--telemetry", "prometheus"]) == 2
        assert "it was set by MCCORE_PROMETHEUS_PORT" in capsys.readouterr().err


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            ([], 2, "no recipe is given"),
            (["tinny"], 2, "did you mean tiny"),
            (["tiny", "--set", "model.deth=3"], 2, "did you mean model.depth"),
            (["tiny", "--name", "a/b"], 2, "can't be the name"),
            (["tiny", "--mc_lens_target", "both"], 2, "`--mc_lens_target` has no effect without --mc"),
            (["tiny", "--mc", "--mc_lens_target", "both", "--mc-num-random-variants", "2"], 2, "it takes 4 or more"),
            (
                ["tiny", "--mc", "--mc_recon_blocks", "2", "--mc_recon_weight", "0"],
                2,
                "`--mc_recon_blocks` has no effect",
            ),
            (["tiny", "--nnodes", "2"], 2, "--rdzv-endpoint"),
            (["tiny", "--rdzv-endpoint", "a:1"], 2, "no effect"),
            (["tiny", "--set", "data.corpus=parquet:nowhere"], 2, "nowhere doesn't exist"),
            (["tiny", "--set", "sft.mixture.smoltalks=9"], 2, "unknown conversations 'smoltalks'"),
            (["--resume", "nowhere"], 2, "there is no run 'nowhere'"),
            (["--resume"], 2, "there is no run"),
            (["--resume", "a", "--name", "b"], 2, "give one of them"),
        ],
    )
    def test_before_anything_is_made(self, base, capsys, arguments, code, message):
        assert main(["run", *arguments]) == code
        assert message in capsys.readouterr().err
        assert not base.exists()

    def test_a_corpus_that_is_elsewhere_without_a_network(self, base, capsys, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert main(["run", "speedrun"]) == 1
        told = capsys.readouterr().err
        assert "karpathy/climbmix-400b-shuffle isn't on this machine" in told
        assert "mccore data get" in told
        assert not base.exists()

    def test_an_existing_name(self, base, capsys):
        RunDir.create(base / "runs", "x", RunConfig())
        assert main(["run", "tiny", "--name", "x"]) == 1
        assert "exists already" in capsys.readouterr().err


class TestRun:
    def test_from_start_to_finish(self, mccore, base):
        code, out, err = mccore("run", "tiny", "--name", "x", *SHORT)
        assert code == 0, err
        assert out == ""
        assert "the run 'x' finished" in err
        assert "next: mccore chat" not in err  # the stand-in leaves no model
        assert RunDir.open("x", base / "runs").outcome().state == "finished"

    def test_a_name_is_made_of_recipe_and_time(self, mccore, base):
        assert mccore("run", "tiny", *SHORT)[0] == 0
        (name,) = [path.name for path in (base / "runs").iterdir()]
        assert name.startswith("tiny-20")

    def test_json_is_nothing_but_events_on_standard_output(self, mccore):
        plan = {"base": [{"do": "step"}, {"do": "finish"}]}
        code, out, err = mccore("run", "tiny", "--name", "x", "--json", *SHORT, plan=plan)
        assert code == 0
        types = [json.loads(line)["type"] for line in out.splitlines()]
        assert types[0] == "run.start"
        assert types[-1] == "run.end"
        assert "step" in types
        assert "parameters" in err

    def test_a_failure(self, mccore):
        code, _, err = mccore("run", "tiny", "--name", "x", *SHORT, plan={"base": [{"do": "raise"}]})
        assert code == 1
        assert "error: the run 'x' failed in base: ValueError: no good" in err
        assert "logs/base.log" in err
        assert "mccore run --resume x" in err

    def test_ctrl_c_saves_and_resume_goes_on(self, mccore, base):
        process = mccore.start(
            "run", "tiny", "--name", "x", *SHORT, plan={"base": [{"do": "step"}, {"do": "stop-aware"}]}
        )
        run = RunDir(base / "runs" / "x")
        wait_for(lambda: run.last_event("step") is not None)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=240)
        assert process.returncode == 130
        assert "next: mccore run --resume x" in err
        code, _, err = mccore("run", "--resume", "x")
        assert code == 0
        assert "resumed: base\n" in err
        assert run.outcome().state == "finished"


class TestResume:
    @pytest.fixture
    def stopped(self, base):
        """A run whose second stage isn't done."""
        run = RunDir.create(base / "runs", "x", resolve("tiny", sets=[SHORT[1]]))
        run.write_result("tokenizer", {})
        return run

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--resume", "x"],
            ["--resume"],
            ["--resume", "latest"],
            ["tiny", "--name", "x", "--resume"],
            ["--resume", "tiny", "--name", "x"],
            ["tiny", "--name", "x", "--resume", *SHORT],  # the same again is no change
            ["--resume", "x", "--set", "seed=42"],
        ],
    )
    def test_every_way_to_say_it(self, stopped, capsys, arguments):
        assert main(["run", *arguments, "--dry-run", "--json"]) == 0
        plan = json.loads(capsys.readouterr().out)
        assert plan["run_dir"] == str(stopped.path)
        assert [item["stage"] for item in plan["commands"]] == ["base"]

    def test_by_directory(self, stopped, capsys):
        assert main(["run", "--resume", str(stopped.path), "--dry-run", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["run_dir"] == str(stopped.path)

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (["--set", "seed=43"], "`seed` is 42 in 'x', not 43"),
            (["--seed", "43"], "`--seed` is 42 in 'x', not 43"),
            (["--set", "model.depth=7"], "model.depth"),
            (["--set", "hardware.dtype=bf16"], "hardware.dtype"),
            (["--gpu", "h100"], "--gpu"),
        ],
    )
    def test_a_changed_setting_is_named(self, stopped, capsys, arguments, named):
        before = (stopped.path / "run.json").read_bytes()
        assert main(["run", "--resume", "x", *arguments]) == 2
        assert named in capsys.readouterr().err
        assert (stopped.path / "run.json").read_bytes() == before

    def test_another_recipe(self, stopped, capsys):
        assert main(["run", "speedrun", "--name", "x", "--resume"]) == 2
        assert "was made by the recipe 'tiny', not 'speedrun'" in capsys.readouterr().err

    def test_another_width_may_be(self, stopped, capsys):
        before = (stopped.path / "run.json").read_bytes()
        arguments = ["--nproc", "2", "--set", "hardware.threads=3", "--dry-run", "--json"]
        assert main(["run", "--resume", "x", *arguments]) == 0
        (item,) = json.loads(capsys.readouterr().out)["commands"]
        assert item["command"][3:5] == ["--nproc-per-node", "2"]
        assert item["environment"]["OMP_NUM_THREADS"] == "3"
        assert (stopped.path / "run.json").read_bytes() == before

    @pytest.mark.parametrize("value", ["many", "-1"])
    def test_a_width_that_cant_be(self, stopped, capsys, value):
        assert main(["run", "--resume", "x", "--set", f"hardware.nproc={value}"]) == 2
        assert "error: hardware.nproc: input should be" in capsys.readouterr().err

    def test_a_width_that_cant_share_the_batch(self, stopped, capsys):
        assert main(["run", "--resume", "x", "--nproc", "7"]) == 2
        assert "7 ranks can't share" in capsys.readouterr().err


class TestTelemetry:
    """What the environment switches on holds for one start."""

    def test_a_run_and_its_resumption_say_what_is_on_and_run_json_has_no_secret(self, base, mccore, monkeypatch):
        monkeypatch.setenv("MCCORE_PROMETHEUS_PORT", "0")
        monkeypatch.setenv("PROMETHEUS_PASSWORD", "hunter2-planted")
        plan = {"base": [{"do": "raise"}]}
        code, _, err = mccore("run", "tiny", "--name", "t", *SHORT, plan=plan)
        assert code == 1
        assert "telemetry   prometheus: MCCORE_PROMETHEUS_PORT is set" in err
        run = RunDir(base / "runs" / "t")
        assert run.config.telemetry == ()
        assert started(run) == [["prometheus"]]
        monkeypatch.delenv("MCCORE_PROMETHEUS_PORT")
        _, _, err = mccore("run", "--resume", "t", plan=plan)
        assert "telemetry   none" in err
        monkeypatch.setenv("MCCORE_TELEMETRY", "prometheus")
        _, _, err = mccore("run", "--resume", "t", "--telemetry", "noop", plan=plan)
        assert "telemetry   none: noop is chosen" in err
        port = ("--telemetry", "prometheus", "--set", "telemetry.prometheus.options.port=0")
        code, _, err = mccore("run", "--resume", "t", *port)
        assert (code, "telemetry   prometheus: chosen for this run" in err) == (0, True)
        assert started(run) == [["prometheus"], [], [], ["prometheus"]]
        files = [path for path in run.path.rglob("*") if path.is_file()]
        assert [path for path in files if b"hunter2" in path.read_bytes()] == []

    def test_a_resumed_run_can_be_planned_with_other_providers(self, base, mccore, capsys):
        mccore("run", "tiny", "--name", "t", *SHORT, "--telemetry", "noop", plan={"base": [{"do": "raise"}]})
        assert main(["run", "--resume", "t", "--dry-run", "--json", "--telemetry", "prometheus"]) == 0
        plan = json.loads(capsys.readouterr().out)
        assert [one["name"] for one in plan["telemetry"]] == ["prometheus"]
        assert plan["config"]["telemetry"] == [{"name": "noop", "options": {}}]


def started(run):
    """The providers of each start."""
    return [event.data["telemetry"] for event in read_events(run.events_dir) if event.type == "run.start"]
