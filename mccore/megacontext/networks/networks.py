"""Everything that MegaContext trains beside the GPT, under one root."""

from __future__ import annotations

import copy
import hashlib

import torch
from torch import Tensor, nn

from mccore.config import MegaContextConfig, ModelConfig
from mccore.megacontext.networks.decoder import WeakDecoder
from mccore.megacontext.networks.gistnet import GistNet, build_pyramid
from mccore.megacontext.networks.lensnet import LensNet
from mccore.megacontext.networks.running_mean import RunningMean
from mccore.megacontext.networks.span_bias import SpanBias
from mccore.model.optim.optimizer import Group

DISTANCE_RATE = 8.0  # of LensNet's weights on distances, over its own
FORMER_DECAY = 0.9  # of the average of LensNet's parameters that stands for its previous policy


class MegaContextNets(nn.Module):
    """GistNet, LensNet, the bias of gist keys and, where its loss has a weight, the decoder that rebuilds blocks.

    `model` must be a derived configuration. Parameters are fp32; GistNet and LensNet compute in `dtype`.
    """

    def __init__(
        self, config: MegaContextConfig, model: ModelConfig, *, seed: int = 0, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.gistnet = GistNet(config.gistnet, model.n_embd, config.block_size, config.max_lod)
        self.lensnet = LensNet(config.lens, model.n_embd, config.max_lod, config.block_size)
        self.bias: SpanBias | None = None
        if config.span_bias:
            self.bias = SpanBias(model, config.positional, config.block_size, config.gist_mass)
        self.decoder: WeakDecoder | None = None
        if config.recon_weight:
            self.decoder = WeakDecoder(model.n_embd, config.block_size)
        self.advantage: RunningMean | None = None
        if config.lens.target != "attention":
            self.advantage = RunningMean()
        self.balance: RunningMean | None = None
        if config.lens.budget_smooth_weight:
            self.balance = RunningMean()
        self.former: LensNet | None = None
        if config.lens.kl_weight:
            self.former = copy.deepcopy(self.lensnet).requires_grad_(False)
        self.reset(seed)

    @torch.no_grad()
    def reset(self, seed: int) -> None:
        """Draw the start of every network from a generator of its own."""
        for name, part in self.named_children():
            device = next((parameter.device for parameter in part.parameters()), torch.device("meta"))
            if device.type == "meta":
                continue
            generator = torch.Generator(device)
            digest = hashlib.blake2b(f"{seed}/megacontext/{name}".encode(), digest_size=8).digest()
            generator.manual_seed(int.from_bytes(digest, "little") >> 1)
            if isinstance(part, SpanBias):
                part.reset()
            elif part is not self.former:
                part.reset(generator)  # type: ignore[operator]
        for name, buffer in self.named_buffers():
            buffer.fill_(-1 if name.endswith(".step") else 0)
        if self.former is not None:
            self.former.load_state_dict(self.lensnet.state_dict())

    @torch.no_grad()
    def follow_lens(self) -> None:
        """Move the previous policy, a running average of LensNet's parameters, towards the present one: once per step."""
        assert self.former is not None
        for former, present in zip(self.former.parameters(), self.lensnet.parameters(), strict=True):
            former.lerp_(present, 1 - FORMER_DECAY)

    def pyramid(self, embeddings: Tensor, block_size: int | None = None) -> list[Tensor]:
        """Token embeddings [B, T, D] and all gists over them, in the embeddings' dtype; see `build_pyramid`."""
        _, *gists = build_pyramid(self.gistnet, embeddings.to(self.dtype), self.config.max_lod, block_size)
        return [embeddings, *(level.to(embeddings.dtype) for level in gists)]


def megacontext_groups(config: MegaContextConfig, prefix: str, scale: float) -> tuple[Group, ...]:
    """Optimizer groups of `MegaContextNets` under `prefix` ("mc."); `scale` is the factor on every rate."""
    at = prefix.replace(".", r"\.")
    matrices = r"layers\.\d+\.(q|k|v|proj|fc|fc_proj)\.weight|head\.(fc|out)\.weight"
    betas = (0.8, 0.95)
    return (
        Group("gist_matrices", rf"{at}(gistnet|decoder)\.({matrices})", "muon", config.gistnet.matrix_lr * scale),
        Group(
            "gist_rest",
            rf"{at}((gistnet|decoder)\.(place|level|smear|probe|layers\.\d+\.temperature)|bias\.weights)",
            "adamw",
            config.gistnet.lr * scale,
            betas,
        ),
        Group("lens", rf"{at}lensnet\.(?!distance\.).*", "adamw", config.lens.lr * scale, betas),
        # Exponents of a power law in distances that are scaled to about 1: at LensNet's own rate a short training ends before
        # they have learned that what is near matters more, and LensNet loses to recency (docs/LOG.md).
        Group("lens_distance", rf"{at}lensnet\.distance\..*", "adamw", DISTANCE_RATE * config.lens.lr * scale, betas),
    )
