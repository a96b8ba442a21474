"""The whole pipeline in minutes on two CPU cores, without a network.

The standard library's own text and a model of four layers.
"""

from mccore.api import Recipe
from mccore.config import (
    BaseConfig,
    ChatTrainConfig,
    DataConfig,
    EvalConfig,
    HardwareConfig,
    ModelConfig,
    RunConfig,
    TokenizerConfig,
)
from mccore.hookspecs import hookimpl


@hookimpl
def mccore_recipe() -> Recipe:
    return Recipe(
        summary="the whole pipeline in minutes on two CPU cores",
        config=RunConfig(
            hardware=HardwareConfig(nproc=1, dtype="auto"),
            tokenizer=TokenizerConfig(vocab_size=2048, max_chars=20_000_000),
            data=DataConfig(corpus="stdlib"),
            model=ModelConfig(depth=4, head_dim=32, n_embd=128, max_seq_len=256),
            base=BaseConfig(
                tokens=2_000_000,
                batch_tokens=8192,
                eval_every_tokens=500_000,
                eval_tokens=65_536,
                sample_every_tokens=1_000_000,
                checkpoint_every_tokens=500_000,
            ),
            mid=ChatTrainConfig(
                batch_tokens=8192,
                mixture={"stdlib_qa": 2000, "spelling": 1000, "arithmetic": 500, "needle": 500},
                eval_tokens=32_768,
            ),
            sft=ChatTrainConfig(
                batch_tokens=8192,
                mixture={"stdlib_qa": 1000, "spelling": 200, "arithmetic": 200, "needle": 200},
                eval_tokens=32_768,
            ),
            eval=EvalConfig(bpb_tokens=131_072, choice_questions=200, generated_questions=25, sample_tokens=32),
        ),
    )
