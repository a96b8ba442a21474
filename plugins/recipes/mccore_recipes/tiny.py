"""The whole pipeline in minutes on two CPU cores, without a network.

The standard library's own text and a model of four layers. The sizes were measured: docs/LOG.md, "Sizing tiny".
"""

from mccore.api import Recipe
from mccore.config import (
    BaseConfig,
    ChatTrainConfig,
    DataConfig,
    EvalConfig,
    GistNetConfig,
    HardwareConfig,
    LensConfig,
    MegaContextConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TokenizerConfig,
)
from mccore.hookspecs import hookimpl


@hookimpl
def mccore_recipe() -> Recipe:
    return Recipe(
        summary="the whole pipeline in minutes on two CPU cores",
        config=RunConfig(
            # Two ranks of one thread each: half again as fast as two threads, which wait for each other inside every product.
            hardware=HardwareConfig(dtype="native", nproc=2),
            tokenizer=TokenizerConfig(vocab_size=2048, max_chars=20_000_000),
            data=DataConfig(corpus="stdlib"),
            model=ModelConfig(depth=4, head_dim=64, n_embd=128, max_seq_len=256, smear=True, smear_init=1.0),
            # Steps of 2,048 tokens: with so few tokens, many small steps at high rates beat fewer large ones. The rule
            # lr ~ sqrt(batch) would start these steps 32 times too low. The gates' rate is that of no more than a few hundred
            # steps: at the default the smear is lost before it is used.
            optim=OptimConfig(lr_batch_scale=2.0, weight_decay_scale=0.2, momentum_warmup_steps=20, gate_lr=0.005),
            base=BaseConfig(
                tokens=800_000,
                batch_tokens=2048,
                warmup_steps=20,
                eval_every_tokens=250_000,
                eval_tokens=32_768,
                sample_every_tokens=500_000,
                checkpoint_every_tokens=250_000,
            ),
            mid=ChatTrainConfig(
                batch_tokens=2048,
                lr_scale=0.5,
                mixture={"stdlib_qa": 4500, "spelling": 1200, "arithmetic": 1000, "needle": 400},
                eval_every_tokens=250_000,
                eval_tokens=32_768,
            ),
            sft=ChatTrainConfig(
                batch_tokens=2048,
                lr_scale=0.5,
                warmdown_ratio=0.7,
                mixture={"stdlib_qa": 4000, "spelling": 1200, "arithmetic": 1000, "needle": 400},
                eval_every_tokens=250_000,
                eval_tokens=32_768,
            ),
            # With --mc: sixteen blocks in a row, shown as 13 gists and 48 tokens at the end of training. Contexts that train the
            # GPT too cost a model of so few tokens .02 to .03 nats as a plain one, and gists help it without (docs/LOG.md).
            megacontext=MegaContextConfig(
                block_size=16,
                horizon=16,
                refocus_interval=64,  # a refocus costs about five tokens of so small a model, and text doesn't ask for more
                num_random_variants=1,
                expanded_blocks=1,
                variants_train_gpt=False,
                variant_weight=0.3,
                recon_weight=0.3,
                gistnet=GistNetConfig(layers=1),
                lens=LensConfig(layers=1, queries=16),
            ),
            eval=EvalConfig(bpb_tokens=65_536, choice_questions=400, generated_questions=25, sample_tokens=48),
        ),
    )
