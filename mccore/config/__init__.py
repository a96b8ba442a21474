"""The one schema of configuration: `RunConfig` and its sections. What is named here is for plugins too."""

from mccore.config.megacontext import GistNetConfig, LensConfig, MegaContextConfig, SearchConfig
from mccore.config.model import DataConfig, ModelConfig, TokenizerConfig
from mccore.config.run import READABLE_VERSIONS, SCHEMA_VERSION, RunConfig
from mccore.config.section import (
    Choice,
    Count,
    Described,
    Fraction,
    Need,
    NonNegative,
    Positive,
    Section,
    describe_validation,
    flags,
    validate_stored,
    walk_fields,
    walk_settings,
)
from mccore.config.stages import STAGES, TRAINING_STAGES, StageName, StageSpec, stage_spec
from mccore.config.training import (
    BaseConfig,
    ChatConfig,
    ChatTrainConfig,
    CheckpointConfig,
    EvalConfig,
    HardwareConfig,
    OptimConfig,
    RLConfig,
    TrainConfig,
)

__all__ = [
    "READABLE_VERSIONS", "SCHEMA_VERSION", "STAGES", "TRAINING_STAGES", "BaseConfig", "ChatConfig",
    "ChatTrainConfig", "CheckpointConfig", "Choice", "Count", "DataConfig", "Described",
    "EvalConfig", "Fraction", "GistNetConfig", "HardwareConfig", "LensConfig", "MegaContextConfig", "ModelConfig", "Need",
    "NonNegative", "OptimConfig", "Positive", "RLConfig", "RunConfig", "SearchConfig", "Section", "StageName", "StageSpec",
    "TokenizerConfig", "TrainConfig", "describe_validation", "flags", "stage_spec", "validate_stored", "walk_fields",
    "walk_settings",
]  # fmt: skip
