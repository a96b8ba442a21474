"""The one schema of configuration: `RunConfig` and its sections.

A recipe is a partial `RunConfig`; `mccore.resolve.resolve` merges overrides into it, derives what is None and
writes the result, every default spelled out, to `run.json`. Training processes read that file and nothing else. Flags,
`--set` paths, docs/settings.md and a form in a monitor are generated from this schema, so no default exists twice.

Numbers that are None are derived by `mccore.scaling.derive`, most of them from the depth of the model. Version 1 of the schema
said 0 for that; its files are read as what they meant.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from mccore.config.megacontext import MegaContextConfig
from mccore.config.model import DataConfig, ModelConfig, TokenizerConfig
from mccore.config.section import Choice, Count, Section, describe_validation, flags, walk_settings
from mccore.config.stages import DEFAULT_STAGES, STAGES, StageName
from mccore.config.training import (
    BaseConfig,
    ChatConfig,
    ChatTrainConfig,
    CheckpointConfig,
    EvalConfig,
    HardwareConfig,
    OptimConfig,
    RLConfig,
)
from mccore.errors import ConfigError

SCHEMA_VERSION = 2
READABLE_VERSIONS = (1, 2)


def _known_stage(name: str) -> StageName:
    if name not in STAGES:
        raise ValueError(f"there is no such stage; there are {', '.join(STAGES)}")
    return name


class RunConfig(Section):
    """Everything that decides what a run does."""

    schema_version: Literal[2] = 2
    recipe: str = ""
    seed: Count = Field(
        42, description="seed of initialisation, data order and sampling", json_schema_extra=flags("seed")
    )
    stages: tuple[Annotated[StageName, AfterValidator(_known_stage)], ...] = Field(
        DEFAULT_STAGES, description="stages in order"
    )
    hardware: HardwareConfig = HardwareConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    base: BaseConfig = BaseConfig()
    mid: ChatTrainConfig = ChatTrainConfig(
        loss_on="all", warmdown_ratio=0.2, final_lr_fraction=0.0, weight_decay=False, warmup_steps=0
    )
    sft: ChatTrainConfig = ChatTrainConfig(
        lr_scale=0.8, warmdown_ratio=0.5, final_lr_fraction=0.0, weight_decay=False, warmup_steps=0
    )
    rl: RLConfig = RLConfig(
        lr_scale=0.05, warmdown_ratio=1.0, final_lr_fraction=0.0, weight_decay=False, warmup_steps=0
    )
    eval: EvalConfig = EvalConfig()
    chat: ChatConfig = ChatConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    megacontext: MegaContextConfig = MegaContextConfig()
    telemetry: tuple[Choice, ...] = Field(
        (),
        description="telemetry providers; noop is none, and without any the environment decides",
        json_schema_extra=flags("telemetry"),
    )

    @model_validator(mode="before")
    @classmethod
    def _from_version_1(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("schema_version") != 1:
            return values
        upgraded = {**values, "schema_version": SCHEMA_VERSION}
        for described in walk_settings(cls):
            *sections, name = described.path.split(".")
            inner: Any = upgraded
            for section in sections:
                if not isinstance(inner.get(section), dict):
                    break
                inner[section] = dict(inner[section])
                inner = inner[section]
            else:
                if described.is_derived and inner.get(name) == 0:
                    inner[name] = None
        return upgraded

    @field_validator("stages")
    @classmethod
    def _stages_in_order(cls, stages: tuple[StageName, ...]) -> tuple[StageName, ...]:
        wanted = set(stages)
        if not stages or stages != tuple(stage for stage in STAGES if stage in wanted):
            raise ValueError(f"stages must be some of {', '.join(STAGES)}, each once and in this order")
        return stages

    def to_json(self) -> str:
        """The configuration as `run.json` holds it: every value spelled out, keys in schema order."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "run.json") -> RunConfig:
        """Read what `to_json` wrote. Raises ConfigError naming `source` and the field."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ConfigError(f"{source}: {describe_validation(error)}") from error
        except RecursionError:
            raise ConfigError(f"{source}: it is nested too deeply") from None
