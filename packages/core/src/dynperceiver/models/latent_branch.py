"""The latent branch: a small code that reads the feature branch, is refined by self-attention, and writes back (paper section 3.2).

Shape suffixes: B rows, C channels, H/W feature size, N latent tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..layers import (
    IMAGE_LAYOUT,
    ChannelExpander,
    FeatureToLatent,
    LatentToFeature,
    MapLayout,
    MapReader,
    TokenMixer,
    call_with_cp,
    self_attention_stack,
)

__all__ = ['LatentBranch']

NUM_HEADS = (1, 2, 4, 8)
LEAN_HEADS = 4


class LatentBranch(nn.Module):
    """Learned latent code z_0 and the stages that refine it.

    In the paper's form, stage i works with ``channels[i - 1]`` channels and ``num_latents / 2 ** (i - 1)`` tokens; without token mixers,
    with ``num_latents`` tokens throughout. Stages are numbered 1..4 as in the paper. With a ``width`` of its own the code keeps its shape,
    and there is nothing to mix and to expand.

    Args:
        channels: Channels of x_0 .. x_4, or of as many maps as the CNN has.
        num_latents: Tokens of z_0; a multiple of 8 with token mixers, three of which halve them.
        depths: Self-attention layers of each stage; 0 leaves the code as it was read.
        x2z: Whether stages 2..4 read the feature map (stage 1 always does).
        z2x: Whether all stages but the last write back to the feature map.
        dwc: Whether reading goes through a depthwise 7x7 convolution.
        last_z2x: Whether the last stage writes back.
        token_mixers: Whether the tokens are halved between stages.
        widening: MLP widening of the self-attention layers.
        num_stages: Stages that are built; later ones leave the latent code and the feature map as they are. A backbone without exits
            builds no more than what its outputs depend on. Default: all.
        width: Channels of the code in all stages. Default: in each stage those of the map that it reads.
        read_stages: Stages that read and refine; the others leave the code as it is. Default: all.
        max_tokens: Read maps averaged by an integer factor to about so many tokens, see :class:`~dynperceiver.layers.MapReader`, in the
            place of the 7x7 summary.
        layouts: Layouts of the maps, where such reads are. Default: all BCHW.
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
        num_stages: int | None = None,
        width: int | None = None,
        read_stages: Sequence[int] | None = None,
        max_tokens: int | None = None,
        layouts: Sequence[MapLayout] | None = None,
    ) -> None:
        super().__init__()
        count = len(channels) - 1
        widths = tuple(channels[:count]) if width is None else (width,) * count
        heads = NUM_HEADS if width is None else (LEAN_HEADS,) * count
        read_stages = range(1, count + 1) if read_stages is None else read_stages
        self.num_stages = num_stages = count if num_stages is None else num_stages
        self.widths = widths
        self.latent = nn.Parameter(torch.empty(num_latents, widths[0]))

        def stages(count: int, build: Callable[[int], nn.Module], wanted: bool = True) -> nn.ModuleList:
            return nn.ModuleList(build(i) if wanted and i < num_stages else nn.Identity() for i in range(count))

        def reader(i: int) -> nn.Module:
            if i + 1 not in read_stages or not (x2z or i == 0):
                return nn.Identity()
            if max_tokens is not None:
                return MapReader(widths[i], channels[i], max_tokens, heads[i], IMAGE_LAYOUT if layouts is None else layouts[i])
            return FeatureToLatent(widths[i], channels[i], dwc)

        def refiner(i: int) -> nn.Module:
            return self_attention_stack(widths[i], heads[i], depths[i], widening) if i + 1 in read_stages else nn.Identity()

        self.x2z = stages(count, reader)
        self.blocks = stages(count, refiner)
        self.mixers = stages(count - 1, lambda i: TokenMixer(num_latents // 2**i), token_mixers)
        self.expanders = stages(count - 1, lambda i: ChannelExpander(widths[i], widths[i + 1]), width is None)
        self.z2x = stages(count - 1, lambda i: LatentToFeature(channels[i + 1], widths[min(i + 1, count - 1)]), z2x)
        self.last_z2x = LatentToFeature(channels[count], widths[count - 1]) if last_z2x and num_stages == count else nn.Identity()
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
    def stage_modules(operation: str, stage: int, num_stages: int = 4) -> tuple[str, ...]:
        """Names of the modules that :meth:`read`, :meth:`expand` or :meth:`write` of a stage uses.

        Args:
            operation: ``'read'``, ``'expand'`` or ``'write'``.
            stage: From 1.
            num_stages: Stages of the CNN.
        """
        parts = {'read': ('x2z', 'blocks'), 'expand': ('mixers', 'expanders'), 'write': ('z2x',)}[operation]
        return ('last_z2x',) if (operation, stage) == ('write', num_stages) else tuple(f'{part}.{stage - 1}' for part in parts)

    @property
    def readers(self) -> dict[int, nn.Module]:
        """Stage (from 1) to the module that reads the feature map there; the identity where nothing does."""
        return dict(enumerate(self.x2z, 1))

    def start(self, feature_BCHW: Tensor) -> Tensor:
        """z_0 for every row of a feature map: shape (B, N, C of x_0); while exporting (1, N, C), which what reads it broadcasts."""
        if torch.compiler.is_exporting():
            return self.latent[None]
        return self.latent.expand(feature_BCHW.shape[0], -1, -1)

    def read(self, stage: int, latent_BNC: Tensor, feature_BCHW: Tensor) -> Tensor:
        """z' of a stage: X2Z on x_{stage-1}, then self-attention.

        Args:
            stage: From 1.
            latent_BNC: z_{stage-1}.
            feature_BCHW: x_{stage-1}.
        """
        reader = self.x2z[stage - 1]
        if not isinstance(reader, nn.Identity):  # nothing is read there
            latent_BNC = self._call(reader, latent_BNC, feature_BCHW)
        refined: Tensor = self.blocks[stage - 1](latent_BNC)
        return refined

    def expand(self, stage: int, latent_BNC: Tensor) -> Tensor:
        """z of a stage (all but the last) from its z': half the tokens, the next stage's channels."""
        expanded: Tensor = self.expanders[stage - 1](self.mixers[stage - 1](latent_BNC))
        return expanded

    def write(self, stage: int, feature_BCHW: Tensor, latent_BNC: Tensor) -> Tensor:
        """x of a stage from its x~ and its z (the last stage: its z')."""
        writer = self.last_z2x if stage == len(self.x2z) else self.z2x[stage - 1]
        return self._call(writer, feature_BCHW, latent_BNC) if isinstance(writer, LatentToFeature) else feature_BCHW

    def _call(self, module: nn.Module, *args: Tensor) -> Tensor:
        output: Tensor = call_with_cp(module, *args) if self.with_cp else module(*args)
        return output
