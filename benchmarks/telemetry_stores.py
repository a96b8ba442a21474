"""The stores of `benchmarks/telemetry.py deliver`: OpenSearch and W&B, each beside a bare client of the same library.

    uv run python benchmarks/telemetry.py deliver opensearch wandb [--events 20000] [--rounds 9]

The peer of `opensearch` reads the same file, makes the same documents with the same ids, and hands them to the client's own
`helpers.bulk` in batches of the same size; it looks at no answer. The peer of `wandb` calls `run.log` with the same keys.
Both include what the library takes to begin and to end.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

BATCH = 1000


@contextlib.contextmanager
def opensearch_server(folder: Path) -> Iterator[dict[str, Any]]:
    """A real node with 512 MB of memory."""
    from tests.support.opensearch_node import opensearch_node

    with opensearch_node() as node:
        yield {"url": node.url, "timeout_seconds": 60.0}


def send_opensearch(path: Path, options: dict[str, Any]) -> None:
    """`helpers.bulk` of opensearch-py."""
    from opensearchpy import OpenSearch, helpers

    client = OpenSearch(hosts=[options["url"]], timeout=60)
    stream = "peer-events"
    if not client.indices.exists_index_template(name=stream):
        from mccore_telemetry.opensearch.schema import index_template

        client.indices.put_index_template(name=stream, body=index_template(stream))
        client.indices.create_data_stream(name=stream)
    run = os.urandom(8).hex()

    def actions() -> Iterator[dict[str, Any]]:
        with path.open() as file:
            for number, line in enumerate(file):
                event = json.loads(line)
                metrics = event["metrics"]
                parts = [
                    {"name": name, "metric": name.split("/")[0], "part": name.split("/")[1], "value": value}
                    for name, value in metrics.items()
                    if "/" in name
                ]
                source = {
                    "@timestamp": int(event["time"] * 1000),
                    **{name: event[name] for name in ("time", "v", "type", "rank", "stage", "step", "tokens")},
                    "run": "bench",
                    "run_id": run,
                    "service": "train",
                    "metrics": {name: value for name, value in metrics.items() if "/" not in name},
                    "data": event["data"],
                    **({"parts": parts} if parts else {}),
                }
                yield {"_op_type": "create", "_index": stream, "_id": f"{run}-{number}", "_source": source}

    helpers.bulk(client, actions(), chunk_size=BATCH, raise_on_error=False)
    client.close()


@contextlib.contextmanager
def wandb_files(folder: Path) -> Iterator[dict[str, Any]]:
    """No server: W&B's own process, which writes its log."""
    yield {"mode": "offline"}


def send_wandb(path: Path, options: dict[str, Any]) -> None:
    """`run.log` of wandb, a row an event."""
    import wandb

    with tempfile.TemporaryDirectory() as folder:
        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True)
        run = wandb.init(project="bench", dir=folder, mode="offline", reinit="create_new", settings=settings)
        run.define_metric("*", step_metric="axes/tokens")
        began = 0.0
        with path.open() as file:
            for line in file:
                event = json.loads(line)
                began = began or event["time"]
                row = {f"train/{name}": value for name, value in event["metrics"].items()}
                if not row:
                    continue
                axes = {
                    "axes/tokens": event["tokens"],
                    "axes/step": event["step"],
                    "axes/flops": event["metrics"].get("flops_total", 0.0),
                    "axes/mc_effective_step": event["step"],
                    "axes/seconds": event["time"] - began,
                }
                run.log({**row, **axes, "_timestamp": event["time"]})
        run.finish()
        wandb.teardown()
