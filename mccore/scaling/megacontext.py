"""What MegaContext adds to a configuration: lengths of training contexts, parameters, cost. Pure arithmetic, no tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from mccore.config import MegaContextConfig, ModelConfig, RunConfig
from mccore.scaling.model import count_parameters, derive_model, flops_per_token

ENCODER_HEAD_CHANNELS = 32  # of a head of GistNet and LensNet, where the width allows


class VariantLengths(NamedTuple):
    """Entries of training contexts, by kind of variant."""

    expanded: int  # some far blocks stay tokens
    gist_only: int  # the far past is gists


def shortest_context(config: RunConfig, tokens: int) -> int:
    """Entries of the shortest cut of `tokens` tokens that keeps the recent ones of a derived configuration."""
    mc = config.megacontext
    blocks = max(0, tokens - mc.recent_tokens) // mc.block_size
    # Every node that replaces its K children is K - 1 entries fewer.
    collapses: int = sum(blocks // mc.block_size**lod for lod in range(mc.max_lod))
    return tokens - (mc.block_size - 1) * collapses


def expanded_context(config: RunConfig) -> int:
    """Entries that the shortest cut of a sequence has with `expanded_blocks` far blocks as tokens, of a configuration whose other
    numbers are derived."""
    mc, tokens = config.megacontext, config.model.max_seq_len
    far = max(0, tokens - mc.recent_tokens)
    levels: int = sum(
        far >= mc.block_size**lod for lod in range(1, mc.max_lod + 1)
    )  # nodes to open for a block, at most
    return min(tokens, shortest_context(config, tokens) + mc.expanded_blocks * levels * (mc.block_size - 1))


def variant_lengths(config: RunConfig) -> tuple[VariantLengths, ...]:
    """The lengths of training contexts on the way through a stage, one for each of `wc_length_steps` equal parts of it.

    From `start_wc_fraction` of the sequence to `train_wc_length`, each the next that a cut can have; a gist-only variant
    saves the tokens of `expanded_blocks` blocks and the siblings of the nodes opened above them. `config` must be derived.
    """
    mc, tokens = config.megacontext, config.model.max_seq_len
    saved = mc.expanded_blocks * (mc.max_lod if mc.lod2_probability else 1) * (mc.block_size - 1)
    start, steps = mc.start_wc_fraction * tokens, mc.wc_length_steps
    lengths = []
    for part in range(steps):
        share = part / (steps - 1) if steps > 1 else 1.0
        expanded = _reachable_length(config, round(start + (mc.train_wc_length - start) * share))
        gist_only = _reachable_length(config, expanded - saved)
        lengths.append(VariantLengths(expanded, gist_only))
    return tuple(lengths)


def _reachable_length(config: RunConfig, wanted: int) -> int:
    """The shortest length of a cut of a sequence that isn't below `wanted`, or the shortest there is."""
    tokens, step = config.model.max_seq_len, config.megacontext.block_size - 1
    longest = tokens - step * max(0, (tokens - wanted) // step)
    return max(longest, shortest_context(config, tokens))


@dataclass(frozen=True)
class MegaContextParameters:
    """Trained parameters beside the GPT, by part."""

    gistnet: int
    lensnet: int
    bias: int  # of gist keys
    decoder: int  # that rebuilds blocks, where its loss has a weight

    @property
    def total(self) -> int:
        return self.gistnet + self.lensnet + self.bias + self.decoder


def megacontext_parameters(config: RunConfig) -> MegaContextParameters:
    """Parameters that MegaContext adds to the GPT of a configuration, whether it is enabled or not."""
    model, mc = derive_model(config.model, config.tokenizer.vocab_size), config.megacontext
    width, gist, lens = model.n_embd, mc.gistnet, mc.lens
    layers = gist.layers if gist.kind == "transformer" else 0
    gistnet = (mc.block_size + mc.max_lod) * width + (gist.kind == "transformer")  # places, levels, smear
    gistnet += (gist.pooling != "mean") * width + layers * _encoder_parameters(width) + _head(width, width, gist.head)
    lensnet = 2 * width * width + 3 * width + (mc.max_lod + 1) * width  # query and key, features of the place, levels
    lensnet += 1 + 1 + 3  # smear, temperature, weights of the distance
    lensnet += lens.layers * _encoder_parameters(width) + _head(width, 1, lens.head)
    features = 2 if mc.positional == "gaussian_alibi" else 1
    decoder = mc.block_size * width + _encoder_parameters(width, mlp_ratio=2)
    return MegaContextParameters(
        gistnet=gistnet,
        lensnet=lensnet,
        bias=model.depth * model.n_head * features * mc.span_bias,
        decoder=decoder if mc.recon_weight else 0,
    )


def _encoder_matrices(width: int, mlp_ratio: int = 4) -> int:
    return (4 + 2 * mlp_ratio) * width * width


def _encoder_parameters(width: int, mlp_ratio: int = 4) -> int:
    """Parameters of one layer of GistNet, LensNet or the decoder: its matrices and a temperature per head."""
    heads = max(1, width // ENCODER_HEAD_CHANNELS)
    return _encoder_matrices(width, mlp_ratio) + max(heads for heads in range(1, heads + 1) if width % heads == 0)


def _head(width: int, out: int, kind: str) -> int:
    return 2 * width * (width + out) if kind == "mlp" else width * out


@dataclass(frozen=True)
class MegaContextFlops:
    """Floating-point operations of training with MegaContext, by part, per token of the sequences, forward and backward."""

    plain: float
    variants: float
    gistnet: float
    lensnet: float
    reconstruction: float

    @property
    def total(self) -> int:
        return round(self.plain + self.variants + self.gistnet + self.lensnet + self.reconstruction)


def megacontext_flops(config: RunConfig) -> MegaContextFlops:
    """What training on one token costs with MegaContext, the mean over a stage of a derived configuration.

    Counted like `flops_per_token`: 6 per parameter of a matrix product and entry, 12 * width * span per entry and layer of
    attention, the causal half not discounted; 2 and 4 where there is no backward pass. Parts:

    - plain: the pass over `baseline_share` of the sequences, or `baseline_tokens` of each of these.
    - variants: N of each sequence, the mean over the lengths of the stage; of them the head once more without gradient for
      `key_token_weight`, and for `distill_weight` the teacher's and the variant's own logits over the horizon.
    - gistnet: every block of K children at every level, over all tokens.
    - lensnet: from `lens.start` on, the history of one variant of each kind, once more for preferences, and without
      gradient for `kl_weight`; recording the plain pass's attention for the queries and the horizon.
    - reconstruction: the decoder and the output head over the blocks that are rebuilt.

    What isn't a matrix product or attention isn't counted, nor are the few channels that carry the bias of gist keys.
    """
    mc, lens = config.megacontext, config.megacontext.lens
    expanded, gist_only = mc.num_random_variants // 2, mc.num_random_variants - mc.num_random_variants // 2
    counts = (
        (0.5, 0.5) if mc.num_random_variants == 1 else (float(gist_only), float(expanded))
    )  # a single one takes turns
    parts = variant_lengths(config)

    variants = lensnet = 0.0
    for number, part in enumerate(parts, start=1):
        of_part = _context_flops(config, part, *counts)
        variants += of_part[0] / len(parts)
        lensnet += of_part[1] * min(max(number / len(parts) - lens.start, 0.0), 1 / len(parts))  # where it is trained
    return _flops(config, variants, (lens.loss_weight > 0 and mc.num_random_variants > 0) * lensnet)


def megacontext_step_flops(config: RunConfig, step: int, progress: float) -> MegaContextFlops:
    """`megacontext_flops` of one step at `progress` in [0, 1) of its stage: its lengths and kinds of variants, and LensNet or
    not."""
    mc, lens = config.megacontext, config.megacontext.lens
    parts = variant_lengths(config)
    expanded, gist_only = mc.num_random_variants // 2, mc.num_random_variants - mc.num_random_variants // 2
    if mc.num_random_variants == 1 and step % 2:
        gist_only, expanded = 0, 1
    part = parts[min(len(parts) - 1, math.floor(progress * len(parts)))]
    variants, lensnet = _context_flops(config, part, gist_only, expanded)
    trained = progress >= lens.start and lens.loss_weight > 0 and mc.num_random_variants > 0
    return _flops(config, variants, trained * lensnet)


def _context_flops(config: RunConfig, part: VariantLengths, gist_only: float, expanded: float) -> tuple[float, float]:
    """What so many variants of these lengths cost per sequence, and LensNet over one of each kind where there are any."""
    model, mc, lens = derive_model(config.model), config.megacontext, config.megacontext.lens
    width, tokens, horizon, head = model.n_embd, model.max_seq_len, mc.horizon, count_parameters(model).head
    again = 2 * head * (mc.key_token_weight > 0)
    taught = 8 * head * horizon * (mc.distill_weight > 0)
    variants = lensnet = 0.0
    for count, length in ((gist_only, part.gist_only), (expanded, part.expanded)):
        variants += count * (length * (_flops_per_entry(model, length) + again) + taught)
        former = _lens_flops(config, length - horizon, 0) / 3 if lens.kl_weight else 0.0
        lensnet += min(count, 1) * (_lens_flops(config, length - horizon, horizon) + former)
    if lens.target != "attention":
        lensnet += _lens_flops(config, part.gist_only - horizon, 0)
    if lens.target != "preference":
        lensnet += mc.baseline_share * 2 * width * (lens.queries + horizon) * tokens * model.depth
    return variants, lensnet


def _flops(config: RunConfig, variants: float, lensnet: float) -> MegaContextFlops:
    """All parts per token, of variants and LensNet per sequence."""
    model, mc = derive_model(config.model), config.megacontext
    width, tokens, size, head = model.n_embd, model.max_seq_len, mc.block_size, count_parameters(model).head
    read = mc.baseline_share * (mc.baseline_tokens or tokens) / tokens
    rebuilt = min(mc.recon_blocks, tokens // size) * size * (mc.recon_weight > 0)
    reconstruction = rebuilt * (6 * (_encoder_matrices(width, mlp_ratio=2) + head) + 12 * width * size)
    return MegaContextFlops(
        plain=read * _flops_per_entry(model, mc.baseline_tokens or tokens),
        variants=variants / tokens,
        gistnet=_gist_flops(mc, width, tokens) / tokens,
        lensnet=lensnet / tokens,
        reconstruction=reconstruction / tokens,
    )


def megacontext_flops_per_token(config: RunConfig) -> int:
    """Floating-point operations of training on one token with MegaContext; see `megacontext_flops`."""
    return megacontext_flops(config).total


def _flops_per_entry(model: ModelConfig, length: int) -> int:
    """`flops_per_token` for rows of `length` entries."""
    return flops_per_token(model.model_copy(update={"max_seq_len": length}))


def _gist_flops(mc: MegaContextConfig, width: int, tokens: int) -> int:
    """GistNet over all blocks of a sequence."""
    entries = mc.block_size + (mc.gistnet.pooling == "cls")
    layers = mc.gistnet.layers if mc.gistnet.kind == "transformer" else 0
    layer = entries * (6 * _encoder_matrices(width) + 12 * width * entries)
    blocks: int = sum(tokens // mc.block_size**lod for lod in range(1, mc.max_lod + 1))
    return blocks * (layers * layer + 6 * _head(width, width, mc.gistnet.head))


def _lens_flops(config: RunConfig, entries: int, later: int) -> int:
    """LensNet over one history, with the questions of its newest tokens and of `later` ones."""
    lens, width = config.megacontext.lens, derive_model(config.model).n_embd
    asking = min(lens.queries, entries)
    products = entries * (width * width + 3 * width + lens.layers * _encoder_matrices(width))
    products += (asking + later) * (width * width + width * entries) + asking * _head(width, 1, lens.head)
    return 6 * products + 12 * width * lens.layers * entries * entries


def context_activations(config: RunConfig) -> tuple[float, float]:
    """Entries that the GPT reads per token of a sequence at the start of a stage, where training contexts are longest; and
    what GistNet and LensNet keep beside, in widths per token."""
    mc, tokens = config.megacontext, config.model.max_seq_len
    longest, expanded = variant_lengths(config)[0], mc.num_random_variants // 2
    read = (mc.num_random_variants - expanded) * longest.gist_only + expanded * longest.expanded
    layer = 18  # the residual, norms, attention and its copy, q, k and v; an MLP four times as wide and its square
    layers = mc.gistnet.layers if mc.gistnet.kind == "transformer" else 0
    children = 1 + 1 / mc.block_size
    lens = (longest.gist_only + longest.expanded) / tokens * (mc.lens.loss_weight > 0)
    plain = mc.baseline_share * (mc.baseline_tokens or tokens)
    return (plain + read) / tokens, layer * (layers * children + mc.lens.layers * lens)
