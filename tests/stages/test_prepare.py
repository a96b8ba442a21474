"""What the data stage refuses: what can't work later is said before hours are spent on getting there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mccore.config import RunConfig
from mccore.megacontext.focus.state import FocusError
from mccore.runs.rundir import RunDir


@pytest.mark.parametrize(
    ("stages", "refused"), [(("data", "base"), False), (("data", "base", "sft", "chat_eval_sft"), True)]
)
def test_a_working_context_without_room_for_sessions(
    new_run: Callable[[str, RunConfig], RunDir],
    make_config: Callable[..., RunConfig],
    in_process: Callable[[RunDir, Any], dict[str, Any]],
    stages: tuple[str, ...],
    refused: bool,
) -> None:
    config = make_config(
        model={"depth": 2, "n_embd": 32, "head_dim": 16, "max_seq_len": 256},
        base={"tokens": 5120, "micro_batch_rows": 2},
        sft={"micro_batch_rows": 2},
        megacontext={"enabled": True, "block_size": 32, "wc_length": 128},
    )
    run = new_run(f"no-room-{refused}", config.model_copy(update={"stages": stages}))
    if refused:
        with pytest.raises(FocusError, match="a Working Context of 128 entries is too small"):
            in_process(run, "data")
    else:  # a model of text alone may be trained with it
        assert in_process(run, "data")["corpus"]
