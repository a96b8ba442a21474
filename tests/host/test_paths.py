"""Where runs and caches go, by platform and environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from mccore.host import paths


@pytest.mark.parametrize("variable", ["MCCORE_BASE_DIR", "NANOCHAT_BASE_DIR"])
def test_a_base_directory_holds_everything(tmp_path, variable):
    environ = {variable: str(tmp_path), "XDG_DATA_HOME": "/elsewhere"}
    assert paths.base_dir(environ) == tmp_path
    assert paths.runs_dir(environ) == tmp_path / "runs"
    assert paths.cache_dir(environ) == tmp_path / "cache"


def test_ours_wins_over_nanochats(tmp_path):
    environ = {"MCCORE_BASE_DIR": str(tmp_path / "a"), "NANOCHAT_BASE_DIR": str(tmp_path / "b")}
    assert paths.base_dir(environ) == tmp_path / "a"
    assert paths.base_dir({"MCCORE_BASE_DIR": " ", "NANOCHAT_BASE_DIR": str(tmp_path)}) == tmp_path


def test_home_and_relative_paths_are_resolved(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert paths.base_dir({"MCCORE_BASE_DIR": "~/x"}) == tmp_path / "x"
    assert paths.base_dir({"MCCORE_BASE_DIR": "y"}) == tmp_path / "y"


@pytest.mark.parametrize(
    ("platform", "environ", "runs", "cache"),
    [
        ("linux", {}, ".local/share/mccore/runs", ".cache/mccore"),
        ("linux", {"XDG_DATA_HOME": "relative"}, ".local/share/mccore/runs", ".cache/mccore"),
        ("darwin", {}, "Library/Application Support/mccore/runs", "Library/Caches/mccore"),
        ("win32", {}, "AppData/Local/mccore/data/runs", "AppData/Local/mccore/cache"),
    ],
)
def test_the_platforms_own_directories(monkeypatch, platform, environ, runs, cache):
    monkeypatch.setattr("mccore.host.paths.sys.platform", platform)
    environ = {"HOME": "/home/ada", **environ}
    assert paths.runs_dir(environ) == Path("/home/ada") / runs
    assert paths.cache_dir(environ) == Path("/home/ada") / cache


def test_xdg(monkeypatch):
    monkeypatch.setattr("mccore.host.paths.sys.platform", "linux")
    environ = {"HOME": "/home/ada", "XDG_DATA_HOME": "/data", "XDG_CACHE_HOME": "/cache"}
    assert paths.runs_dir(environ) == Path("/data/mccore/runs")
    assert paths.cache_dir(environ) == Path("/cache/mccore")
