"""Overnight on one GPU: depth 12, 160 shards.

Profiles: `5090` and `h100`.
The horizon is 4.33 billion tokens, about 39 per scaling parameter: far past the ratio of 12, because one GPU has the time
and a chat of this size gains from it.
"""

from mccore.api import Recipe
from mccore.config import (
    BaseConfig,
    ChatTrainConfig,
    DataConfig,
    EvalConfig,
    HardwareConfig,
    ModelConfig,
    RLConfig,
    RunConfig,
)
from mccore.hookspecs import hookimpl
from mccore_recipes.mixtures import MID


@hookimpl
def mccore_recipe() -> Recipe:
    return Recipe(
        summary="overnight on one GPU, depth 12",
        config=RunConfig(
            hardware=HardwareConfig(nproc=1),
            data=DataConfig(corpus="climbmix", shards=160),
            model=ModelConfig(depth=12),
            base=BaseConfig(
                tokens=4_329_472_000,
                batch_tokens=524_288,
                warmup_steps=160,
                eval_every_tokens=131_072_000,
                sample_every_tokens=1_048_576_000,
                checkpoint_every_tokens=524_288_000,
            ),
            mid=ChatTrainConfig(
                batch_tokens=524_288,
                mixture=MID,
                eval_every_tokens=78_643_200,
            ),
            sft=ChatTrainConfig(
                batch_tokens=131_072,
                mixture={
                    "arc_challenge": 1_100,
                    "arc_easy": 2_300,
                    "gsm8k": 8_000,
                    "identity": 1_000,
                    "smoltalk": 10_000,
                    "simple_spelling": 300,
                    "spelling_bee": 300,
                },
                eval_every_tokens=5_242_880,
            ),
            # Not among its stages: `--set stages=...` adds it.
            rl=RLConfig(mixture={"gsm8k": 7_473}, eval_every_tokens=4_000_000, checkpoint_every_tokens=4_000_000),
            eval=EvalConfig(benchmarks=("chatcore",)),
        ),
        profiles={
            "5090": {  # 32 GB: a quarter of the rows an 80 GB card takes
                "base.micro_batch_rows": 8,
                "mid.micro_batch_rows": 8,
                "sft.micro_batch_rows": 8,
            },
            "h100": {
                "base.micro_batch_rows": 32,
                "mid.micro_batch_rows": 32,
                "sft.micro_batch_rows": 32,
            },
        },
    )
