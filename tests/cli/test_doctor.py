"""`mccore doctor`: each check in its good and its bad state."""

from __future__ import annotations

import json
import os
import socket

import pytest

from mccore import plugins
from mccore.cli import doctor, main
from mccore.host import machine
from mccore.host.env import SETTINGS, parse_settings, write_settings


@pytest.fixture
def work(tmp_path, monkeypatch):
    for variable in [*doctor._ENDPOINTS, *(setting.variable for setting in SETTINGS)]:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def checks(capsys):
    code = main(["doctor", "--json"])
    content = json.loads(capsys.readouterr().out)
    assert content["ok"] == (code == 0)
    return code, {check["name"]: check for check in content["checks"]}


class TestWhole:
    def test_json_and_text_agree(self, work, capsys):
        code, found = checks(capsys)
        assert {"python", "torch", "rust extension", "cpu", "memory", "runs", "plugins", "telemetry"} <= set(found)
        assert found["python"]["state"] == found["torch"]["state"] == found["rust extension"]["state"] == "ok"
        assert main(["doctor"]) == code
        text = capsys.readouterr().out
        assert all(name in text for name in found)
        assert not (work / "base").exists()  # it only looks

    def test_a_failure_gives_exit_code_1_and_says_what_to_do(self, work, capsys, monkeypatch):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "nonsense:port")
        code, found = checks(capsys)
        assert code == 1
        assert found["OTEL_EXPORTER_OTLP_ENDPOINT"]["state"] == "fail"
        assert main(["doctor"]) == 1
        assert "write it as http://HOST:PORT" in capsys.readouterr().out

    def test_credentials_are_present_but_never_shown(self, work, capsys, monkeypatch):
        monkeypatch.setattr(os, "environ", os.environ.copy())
        write_settings({"WANDB_API_KEY": "s3cret-of-the-test"})
        assert main(["doctor"]) in (0, 1)
        text = capsys.readouterr().out
        assert "s3cret" not in text
        assert "WANDB_API_KEY" in text
        assert "1 settings, readable by its owner alone" in text


class TestEndpoints:
    def test_one_that_answers(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            check = doctor.check_endpoint("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://user:pw@127.0.0.1:{port}/v1")
        assert check.state == "ok"
        assert "pw" not in check.detail

    def test_one_that_doesnt(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        check = doctor.check_endpoint("MC_OTEL_ENDPOINT", f"127.0.0.1:{port}")
        assert check.state == "fail"
        assert f"127.0.0.1:{port} doesn't answer" in check.detail

    @pytest.mark.parametrize("address", ["", "http://", "http://a:port", "http://[::1"])
    def test_what_isnt_an_address(self, address):
        assert doctor.check_endpoint("MCCORE_OPENSEARCH_URL", address).state == "fail"


class TestPlaces:
    def test_a_file_in_the_way(self, work, monkeypatch):
        (work / "file").write_text("")
        monkeypatch.setenv("MCCORE_BASE_DIR", str(work / "file"))
        assert [check.state for check in doctor.check_places()] == ["fail", "fail"]

    @pytest.mark.parametrize(("free", "state"), [(0, "fail"), (2 << 30, "warn"), (1 << 40, "ok")])
    def test_room_on_the_disk(self, work, monkeypatch, free, state):
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free}))
        assert {check.state for check in doctor.check_places()} == {state}


class TestPlugins:
    def test_ours_fails_a_third_partys_warns(self, monkeypatch):
        rows = [
            plugins.Plugin("tree", "ram", "m.ram", "mccore-trees", "1", "", problem="broken"),
            plugins.Plugin("tree", "mine", "m.mine", "mccore-tree-mine", "1", "", problem="broken too"),
            plugins.Plugin("tree", "good", "m.good", "my-trees", "1", ""),
        ]
        monkeypatch.setattr(plugins, "check", lambda: rows)
        found = {check.name: check for check in doctor.check_plugins()}
        assert found["plugins"].detail == "1 of 3 usable"
        assert (found["tree ram"].state, found["tree mine"].state) == ("fail", "warn")
        assert "mccore-tree-mine" in found["tree mine"].hint


class TestMachine:
    @pytest.fixture(autouse=True)
    def afresh(self):
        machine.accelerators.cache_clear()
        yield
        machine.accelerators.cache_clear()

    def fake_tool(self, directory, monkeypatch, script):
        tool = directory / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")

    def test_gpus_as_their_driver_tells(self, tmp_path, monkeypatch):
        self.fake_tool(tmp_path, monkeypatch, "echo 'NVIDIA H200, 143771, 570.1'; echo 'NVIDIA H200, 143771, 570.1'")
        gpu = next(check for check in doctor.check_machine() if check.name == "gpu")
        assert gpu.state == "ok"
        assert gpu.detail.startswith("NVIDIA H200 (140.4 GiB), NVIDIA H200")
        speed = machine.speed("cuda", "bf16")
        assert not speed.measured
        assert "35% of the 989 TFLOP/s peak of NVIDIA H200" in speed.source

    def test_a_driver_that_fails(self, tmp_path, monkeypatch):
        self.fake_tool(tmp_path, monkeypatch, "echo 'no devices'; exit 9")
        gpu = next(check for check in doctor.check_machine() if check.name == "gpu")
        assert gpu.state == "warn"


def test_every_endpoint_looked_at_is_one_that_a_provider_reads():
    for variable in doctor._ENDPOINTS:
        parse_settings(f"{variable}=http://a:1")
        if variable.startswith("MCCORE_"):
            name, _, option = variable.removeprefix("MCCORE_").lower().partition("_")
            assert option in plugins.load("telemetry", name).options.model_fields
