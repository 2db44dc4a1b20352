"""The latent branch: a small code that reads the feature branch, is refined by self-attention, and writes back (paper section 3.2).

Shape suffixes: B rows, C channels, H/W feature size, N latent tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..layers import ChannelExpander, FeatureToLatent, LatentToFeature, TokenMixer, call_with_cp, self_attention_stack

__all__ = ['LatentBranch']

NUM_HEADS = (1, 2, 4, 8)


class LatentBranch(nn.Module):
    """Learned latent code z_0 and the four stages that refine it.

    Stage i works with ``channels[i - 1]`` channels and ``num_latents / 2 ** (i - 1)`` tokens; without token mixers, with
    ``num_latents`` tokens throughout. Stages are numbered 1..4 as in the paper.

    Args:
        channels: Channels of x_0 .. x_4, as the feature branch publishes them.
        num_latents: Tokens of z_0; a multiple of 8, since three token mixers halve them.
        depths: Self-attention layers of the four stages.
        x2z: Whether stages 2..4 read the feature map (stage 1 always does).
        z2x: Whether stages 1..3 write back to the feature map.
        dwc: Whether reading goes through a depthwise 7x7 convolution.
        last_z2x: Whether stage 4 writes back.
        token_mixers: Whether the tokens are halved between stages.
        widening: MLP widening of the self-attention layers.
        num_stages: Stages that are built; later ones leave the latent code and the feature map as they are. A backbone without exits
            builds no more than what its outputs depend on.
    """

    with_cp = False

    def __init__(
        self,
        channels: Sequence[int],
        num_latents: int,
        depths: Sequence[int],
        *,
        x2z: bool = True,
        z2x: bool = True,
        dwc: bool = True,
        last_z2x: bool = True,
        token_mixers: bool = True,
        widening: int = 4,
        num_stages: int = 4,
    ) -> None:
        super().__init__()
        widths = channels[:4]
        self.num_stages = num_stages
        self.latent = nn.Parameter(torch.empty(num_latents, widths[0]))

        def stages(count: int, build: Callable[[int], nn.Module], wanted: bool = True) -> nn.ModuleList:
            return nn.ModuleList(build(i) if wanted and i < num_stages else nn.Identity() for i in range(count))

        self.x2z = stages(4, lambda i: FeatureToLatent(widths[i], channels[i], dwc) if x2z or i == 0 else nn.Identity())
        self.blocks = stages(4, lambda i: self_attention_stack(widths[i], NUM_HEADS[i], depths[i], widening))
        self.mixers = stages(3, lambda i: TokenMixer(num_latents // 2**i), token_mixers)
        self.expanders = stages(3, lambda i: ChannelExpander(widths[i], widths[i + 1]))
        self.z2x = stages(3, lambda i: LatentToFeature(channels[i + 1], widths[i + 1]), z2x)
        self.last_z2x = LatentToFeature(channels[4], widths[3]) if last_z2x and num_stages == 4 else nn.Identity()
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)  # the code is narrow: a fixed small spread would silence it
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.latent, std=0.02)
        with torch.no_grad():
            self.latent.clamp_(-2, 2)

    @staticmethod
    def stage_modules(operation: str, stage: int) -> tuple[str, ...]:
        """Names of the modules that :meth:`read`, :meth:`expand` or :meth:`write` of a stage uses.

        Args:
            operation: ``'read'``, ``'expand'`` or ``'write'``.
            stage: 1..4.
        """
        parts = {'read': ('x2z', 'blocks'), 'expand': ('mixers', 'expanders'), 'write': ('z2x',)}[operation]
        return ('last_z2x',) if (operation, stage) == ('write', 4) else tuple(f'{part}.{stage - 1}' for part in parts)

    @property
    def readers(self) -> dict[int, nn.Module]:
        """Stage (1..4) to the module that reads the feature map there; the identity where nothing does."""
        return dict(enumerate(self.x2z, 1))

    def start(self, feature_BCHW: Tensor) -> Tensor:
        """z_0 for every row of a feature map: shape (B, N, C of x_0); while exporting (1, N, C), which what reads it broadcasts."""
        if torch.compiler.is_exporting():
            return self.latent[None]
        return self.latent.expand(feature_BCHW.shape[0], -1, -1)

    def read(self, stage: int, latent_BNC: Tensor, feature_BCHW: Tensor) -> Tensor:
        """z' of a stage: X2Z on x_{stage-1}, then self-attention.

        Args:
            stage: 1..4.
            latent_BNC: z_{stage-1}.
            feature_BCHW: x_{stage-1}.
        """
        reader = self.x2z[stage - 1]
        if not isinstance(reader, nn.Identity):
            latent_BNC = self._call(reader, latent_BNC, feature_BCHW)
        refined: Tensor = self.blocks[stage - 1](latent_BNC)
        return refined

    def expand(self, stage: int, latent_BNC: Tensor) -> Tensor:
        """z of a stage (1..3) from its z': half the tokens, the next stage's channels."""
        expanded: Tensor = self.expanders[stage - 1](self.mixers[stage - 1](latent_BNC))
        return expanded

    def write(self, stage: int, feature_BCHW: Tensor, latent_BNC: Tensor) -> Tensor:
        """x of a stage (1..4) from its x~ and its z (stage 4: its z')."""
        writer = self.last_z2x if stage == 4 else self.z2x[stage - 1]
        return self._call(writer, feature_BCHW, latent_BNC) if isinstance(writer, LatentToFeature) else feature_BCHW

    def _call(self, module: nn.Module, *args: Tensor) -> Tensor:
        output: Tensor = call_with_cp(module, *args) if self.with_cp else module(*args)
        return output
