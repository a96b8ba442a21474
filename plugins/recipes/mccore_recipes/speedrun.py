"""About $100 on eight H100: depth 20, 240 shards.

`--gpu h100-d24` gives the newer, larger setting for the same money.
The horizon follows depth by the current ratio of 12 tokens per scaling parameter, the batch by the current rule.
"""

from mccore.api import Recipe
from mccore.config import (
    STAGES,
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
from mccore_recipes.mixtures import MID, SFT


@hookimpl
def mccore_recipe() -> Recipe:
    return Recipe(
        summary="about $100 on eight H100, depth 20",
        config=RunConfig(
            stages=STAGES,
            hardware=HardwareConfig(nproc=8),
            data=DataConfig(corpus="climbmix", shards=240),
            model=ModelConfig(depth=20, window_pattern="SSSL"),
            base=BaseConfig(
                token_ratio=12.0,
                eval_every_tokens=262_144_000,
                sample_every_tokens=2_097_152_000,
                checkpoint_every_tokens=1_048_576_000,
                eval_tokens=41_943_040,
            ),
            mid=ChatTrainConfig(
                batch_tokens=524_288,
                mixture=MID,
                eval_every_tokens=78_643_200,
            ),
            sft=ChatTrainConfig(
                batch_tokens=524_288,
                mixture=SFT,
                eval_every_tokens=104_857_600,
            ),
            rl=RLConfig(mixture={"gsm8k": 7_473}, eval_every_tokens=4_000_000, checkpoint_every_tokens=4_000_000),
            eval=EvalConfig(benchmarks=("chatcore",)),
        ),
        profiles={
            "h100": {},
            # Depth 24 at 8 tokens per scaling parameter: trained short of the ratio on purpose, for time to a target.
            "h100-d24": {"model.depth": 24, "base.token_ratio": 8.0, "base.micro_batch_rows": 16},
        },
    )
