"""About $1000 on eight H100: depth 32, 800 shards.

37.6 billion tokens: 20 per parameter by the older count.
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
    TokenizerConfig,
)
from mccore.hookspecs import hookimpl
from mccore_recipes.mixtures import MID, SFT


@hookimpl
def mccore_recipe() -> Recipe:
    return Recipe(
        summary="about $1000 on eight H100, depth 32",
        config=RunConfig(
            stages=STAGES,
            hardware=HardwareConfig(nproc=8),
            tokenizer=TokenizerConfig(max_chars=4_000_000_000),
            data=DataConfig(corpus="climbmix", shards=800),
            model=ModelConfig(depth=32, window_pattern="SSSL"),
            base=BaseConfig(
                tokens=37_580_963_840,
                # The batch rule asks for 2**21 here; it is unproven beyond depth 26, and smaller batches won there.
                batch_tokens=1_048_576,
                micro_batch_rows=8,
                eval_every_tokens=524_288_000,
                sample_every_tokens=2_097_152_000,
                checkpoint_every_tokens=2_097_152_000,
                eval_tokens=41_943_040,
            ),
            mid=ChatTrainConfig(
                batch_tokens=524_288,
                micro_batch_rows=8,
                mixture=MID,
                eval_every_tokens=78_643_200,
            ),
            sft=ChatTrainConfig(
                batch_tokens=524_288,
                micro_batch_rows=8,
                mixture=SFT,
                eval_every_tokens=104_857_600,
            ),
            rl=RLConfig(mixture={"gsm8k": 7_473}, eval_every_tokens=4_000_000, checkpoint_every_tokens=4_000_000),
            eval=EvalConfig(benchmarks=("chatcore",)),
        ),
        profiles={"h100": {}},
    )
