"""How well the model in training uses its Working Context, beside every evaluation."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mccore.config.stages import TEXT_STAGE
from mccore.errors import MccoreError
from mccore.runtime.runtime import Runtime, Training
from mccore.stages.focus import CHECK_ROWS, check_focus, validation_rows
from mccore.stages.observers.observer import Observer
from mccore.train.loop import Progress


class FocusCheck(Observer):
    """Streams validation rows of the corpus through Working Contexts; a run without MegaContext or corpus has no check."""

    def __init__(self, runtime: Runtime, training: Training) -> None:
        self._runtime = runtime
        self._training = training
        self._possible = training.nets is not None and TEXT_STAGE in runtime.config.stages
        self._rows: tuple[torch.Tensor, NDArray[np.int64]] | None = None

    def evaluate(self, progress: Progress) -> None:
        nets = self._training.nets
        if not self._possible or nets is None:
            return
        if self._rows is None:  # all ranks read them together
            self._rows = validation_rows(self._runtime, CHECK_ROWS)
        if not self._runtime.world.is_main:
            return
        try:
            check_focus(self._runtime, self._training.gpt, nets, *self._rows, progress)
        except MccoreError as error:  # shapes that can't be streamed are no reason to lose the training
            self._runtime.emit("notice", about="focus", message=f"it isn't checked: {error.message}")
            self._possible = False
