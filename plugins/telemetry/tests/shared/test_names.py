import re

import pytest
from mccore_telemetry.shared.names import labels, otel_name, prometheus_name, split, wandb_name

from mccore.events import METRICS, Event


@pytest.mark.parametrize(
    ("name", "otel", "prometheus", "wandb"),
    [
        ("loss", "mccore.train.loss", "mccore_train_loss_nats", "train/loss"),
        ("tokens_total", "mccore.train.tokens", "mccore_train_tokens_total", "train/tokens_total"),
        ("tokens_per_second", "mccore.train.tokens_per_second", "mccore_train_tokens_per_second", "train/tokens_per_second"),
        ("step_duration", "mccore.train.step_duration", "mccore_train_step_duration_seconds", "train/step_duration"),
        ("memory_used", "mccore.system.memory_used", "mccore_system_memory_used_bytes", "system/memory_used"),
        ("val_bpb", "mccore.val.bpb", "mccore_val_bpb", "val/bpb"),
        ("swap_rate", "mccore.mc.swap_rate", "mccore_mc_swap_rate_ratio", "mc/swap_rate"),
        ("dwell/p95", "mccore.mc.dwell", "mccore_mc_dwell_refocuses", "mc/dwell/p95"),
        ("host_syncs", "mccore.train.host_syncs", "mccore_train_host_syncs", "train/host_syncs"),
        ("lod_loss/2", "mccore.mc.lod_loss", "mccore_mc_lod_loss_nats", "mc/lod_loss/2"),
    ],
)  # fmt: skip
def test_names_are_translated_by_rule(name: str, otel: str, prometheus: str, wandb: str) -> None:
    row, _ = split(name)
    assert (otel_name(row), prometheus_name(row), wandb_name(name)) == (otel, prometheus, wandb)


def test_no_two_metrics_meet_in_any_system() -> None:
    rows = METRICS.values()
    # A collector escapes dots for Prometheus: names must stay apart after that too.
    escaped = [re.sub(r"\W", "_", otel_name(row)) for row in rows]
    for names in (escaped, [prometheus_name(row) for row in rows], [wandb_name(name) for name in METRICS]):
        assert len(set(names)) == len(METRICS)


def test_names_are_valid_where_they_go() -> None:
    for row in METRICS.values():
        assert re.fullmatch(r"mccore\.[a-z]+\.[a-z][a-z0-9_]*", otel_name(row))
        assert re.fullmatch(r"mccore_[a-z0-9_]*[a-z0-9]", prometheus_name(row))
        assert prometheus_name(row).endswith("_total") == (row.kind == "counter")
        assert not otel_name(row).endswith("total")


def test_parts_belong_to_their_family() -> None:
    assert [split(name)[1] for name in ("loss", "lod_loss/2", "dwell/p95")] == ["", "2", "p95"]
    with pytest.raises(KeyError):
        split("no_such_metric/1")


def test_labels_leave_out_what_is_absent_and_what_has_no_end() -> None:
    event = Event("delta_nll", 0.0, rank=1, stage="base", data={"condition": "random", "session": "s-1"})
    assert labels(event, "p95") == {"rank": "1", "stage": "base", "part": "p95", "condition": "random"}
    assert labels(Event("step", 0.0)) == {"rank": "0"}
