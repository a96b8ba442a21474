"""The settings file: quoting, mode, links, foreign variables."""

from __future__ import annotations

import os
import stat
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mccore.errors import DataError, UsageError
from mccore.host.env import (
    FILE_NAME,
    SETTINGS,
    apply_settings,
    format_settings,
    parse_settings,
    read_settings,
    write_settings,
)

printable = st.text(st.characters(codec="utf-8"), max_size=40).filter(str.isprintable)
variables = st.sampled_from([setting.variable for setting in SETTINGS])


class TestFormat:
    @given(st.dictionaries(variables, printable))
    def test_round_trip(self, values):
        assert parse_settings(format_settings(values)) == values

    def test_a_shell_reads_the_same(self, tmp_path):
        value = 'it\'s $HOME `id` \\ "quoted" #5'
        path = write_settings({"WANDB_PROJECT": value}, tmp_path)
        script = f'. "{path}"; printf %s "$WANDB_PROJECT"'
        assert subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout == value

    def test_what_people_write_by_hand(self):
        assert parse_settings("\n# note\n export HF_TOKEN=abc \nWANDB_MODE='offline'\r\nWANDB_PROJECT=\n") == {
            "HF_TOKEN": "abc",
            "WANDB_MODE": "offline",
            "WANDB_PROJECT": "",
        }

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("HF_TOKEN", "no KEY=VALUE"),
            ("HF TOKEN=1", "no KEY=VALUE"),
            ("LD_PRELOAD=/evil.so", "LD_PRELOAD isn't a setting"),
            ("PATH=/evil", "PATH isn't a setting"),
            ("MCCORE_BASE_DIRS=/hunter2", "MCCORE_BASE_DIRS isn't a setting"),  # it looks like an option of a provider
            ("HF_TOKEN='hunter2", "no closing quotation"),
            ("HF_TOKEN=hunter2 more", "needs quotes"),
        ],
    )
    def test_what_cant_be_read_is_named_without_its_value(self, line, message):
        with pytest.raises(UsageError, match=message) as caught:
            parse_settings(f"WANDB_MODE=offline\n{line}\n", "file")
        assert "line 2" in caught.value.message
        assert "hunter2" not in caught.value.render()

    @pytest.mark.parametrize(
        "line", ["c2VjcmV0LWh1bnRlcjI==", "hunter2=", "hunter2", "export hunter2=1", "hunter2 hunter2=1"]
    )
    def test_a_key_without_its_name_isnt_shown(self, line):
        with pytest.raises(UsageError) as caught:
            parse_settings(line)
        assert "hunter2" not in caught.value.render()
        assert line[:8] not in caught.value.render()

    @pytest.mark.parametrize("value", ["two\nlines", "a\0b", "\x1b[31m"])
    def test_a_value_that_isnt_one_line(self, value):
        with pytest.raises(UsageError, match="WANDB_PROJECT"):
            format_settings({"WANDB_PROJECT": value})


class TestFile:
    def test_it_is_its_owners_alone_even_under_a_loose_umask(self, tmp_path):
        before = os.umask(0)
        try:
            path = write_settings({"HF_TOKEN": "a"}, tmp_path)
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert read_settings(tmp_path) == {"HF_TOKEN": "a"}

    def test_a_readable_file_is_tightened_when_written_again(self, tmp_path):
        (tmp_path / FILE_NAME).write_text("HF_TOKEN=a\n")
        (tmp_path / FILE_NAME).chmod(0o644)
        write_settings({"HF_TOKEN": "b"}, tmp_path)
        assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600

    def test_a_link_is_neither_read_nor_written(self, tmp_path):
        target = tmp_path / "target"
        target.write_text("HF_TOKEN=a\n")
        (tmp_path / FILE_NAME).symlink_to(target)
        with pytest.raises(UsageError, match="is a link"):
            read_settings(tmp_path)
        with pytest.raises(UsageError, match="is a link"):
            write_settings({}, tmp_path)
        assert target.read_text() == "HF_TOKEN=a\n"

    def test_a_pipe_isnt_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / FILE_NAME)
        with pytest.raises(UsageError, match="isn't a file"):
            read_settings(tmp_path)

    @pytest.mark.parametrize("data", [b"HF_TOKEN=hunter2\xe9\n", "HF_TOKEN=hunter2\n".encode("utf-16")])
    def test_what_isnt_utf8_is_refused_without_its_value(self, tmp_path, data):
        (tmp_path / FILE_NAME).write_bytes(b"WANDB_MODE=offline\n" * (data[0] != 0xFF) + data)
        with pytest.raises(DataError, match="UTF-") as caught:
            read_settings(tmp_path)
        assert "hunter2" not in caught.value.render()

    def test_no_file_is_no_settings(self, tmp_path):
        assert read_settings(tmp_path) == {}

    @pytest.mark.skipif(os.getuid() != 0, reason="giving a file away takes root")
    def test_another_users_file_is_refused(self, tmp_path, monkeypatch):
        write_settings({"HF_TOKEN": "a"}, tmp_path)
        os.chown(tmp_path / FILE_NAME, 12345, 12345)
        with pytest.raises(UsageError, match="another user"):
            read_settings(tmp_path)


def test_variables_already_set_win(tmp_path):
    write_settings({"HF_TOKEN": "file", "WANDB_MODE": "offline"}, tmp_path)
    environ = {"HF_TOKEN": "shell"}
    apply_settings(environ, tmp_path)
    assert environ == {"HF_TOKEN": "shell", "WANDB_MODE": "offline"}


def test_what_switches_telemetry_on_may_stand_in_the_file():
    from mccore.telemetry import activation

    for variable in (*activation._OTEL_VARIABLES, *activation._WANDB_VARIABLES, activation.LIST_VARIABLE):
        assert parse_settings(f"{variable}=1") == {variable: "1"}


def test_names_that_nothing_reads_are_refused():
    for variable in ("OPENSEARCH_URL", "PROMETHEUS_PUSHGATEWAY"):
        with pytest.raises(UsageError, match=variable):
            parse_settings(f"{variable}=http://a:1")
