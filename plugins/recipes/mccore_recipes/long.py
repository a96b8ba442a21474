"""Long histories on two CPU cores: a model of `tiny`'s size beside gists of documents a dozen Working Contexts long.

The plain model reads windows of 1,024 tokens; Working Contexts of histories of up to 6,144 tokens of one package of the standard
library train it beside, at a weight so small that it pays nothing for them. At inference a search shows spans of the far past in
a Working Context of 512 entries. What that gains over windows of as many entries: docs/RESULTS.md, "Far behind in long
documents".
"""

from mccore.api import Recipe
from mccore.config import (
    BaseConfig,
    Choice,
    DataConfig,
    EvalConfig,
    GistNetConfig,
    HardwareConfig,
    LensConfig,
    MegaContextConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SearchConfig,
    TokenizerConfig,
)
from mccore.hookspecs import hookimpl

WINDOW, HISTORY = 1024, 6144  # tokens that the plain pass reads of a row, and those of a row
ROWS, STEPS = 4, 1220


@hookimpl
def mccore_recipe() -> Recipe:
    return Recipe(
        summary="a small model with long histories, searched, in half an hour on two CPU cores",
        config=RunConfig(
            hardware=HardwareConfig(dtype="native", nproc=2),
            # There are no conversations as long as these documents: the base stage is all.
            stages=("data", "tokenizer", "encode", "base", "report"),
            tokenizer=TokenizerConfig(vocab_size=2048, max_chars=20_000_000),
            data=DataConfig(corpus="stdlib:packages"),
            model=ModelConfig(depth=4, head_dim=64, n_embd=128, max_seq_len=HISTORY, smear=True, smear_init=1.0),
            optim=OptimConfig(lr_batch_scale=2.0, weight_decay_scale=0.2, momentum_warmup_steps=20, gate_lr=0.005),
            # Four documents a step: with fewer, steps are too much about one of them (docs/LOG.md).
            base=BaseConfig(
                tokens=STEPS * ROWS * HISTORY,
                batch_tokens=ROWS * HISTORY,
                warmup_steps=20,
                eval_every_tokens=244 * ROWS * HISTORY,
                eval_tokens=65_536,
                checkpoint_every_tokens=244 * ROWS * HISTORY,
            ),
            megacontext=MegaContextConfig(
                enabled=True,
                block_size=16,
                allocator=Choice(name="spans"),
                search=SearchConfig(kind="ngram"),
                token_positions="contiguous",
                baseline_tokens=WINDOW,
                variant_weight=0.1,
                recon_weight=0.1,
                gist_mass=256,
                gistnet=GistNetConfig(layers=1),
                lens=LensConfig(layers=1, queries=16, loss_weight=0),
                num_random_variants=2,
                train_wc_length=512,
                wc_length_steps=1,
                min_history=0.25,
                lod2_probability=0.8,
                expanded_blocks=8,
                expanded_run=4,
                search_share=0.6,
                random_share=0.1,
                horizon=64,
                wc_length=512,
                refocus_interval=32,
            ),
            eval=EvalConfig(bpb_tokens=65_536),
        ),
    )
