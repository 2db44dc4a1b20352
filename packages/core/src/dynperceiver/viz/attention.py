"""Where the latent code looks: the cross-attention by which it reads the feature map (paper section 3.2, X2Z).

Shape suffixes: H heads (of weights), N latent tokens, M keys, S side of the key grid, H/W image, C = 3 colours (RGB).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dynperceiver_runtime import UserError

from .files import load_pyplot, save_figure
from .gallery import Card

__all__ = ['attention_grid', 'draw_attention', 'most_different_token', 'upsample_grid']

SHOWN_PIXELS = 224


def attention_grid(weights_HNM: Tensor) -> np.ndarray:
    """Mean attention over heads and tokens on the grid of keys, in multiples of an even share, so that its mean is 1.

    Args:
        weights_HNM: Weights of one image, shape (heads, tokens, keys); each row sums to 1.

    Returns:
        Shape (S, S).

    Raises:
        ValueError: If the keys are no square grid.
    """
    num_keys = weights_HNM.shape[-1]
    side = isqrt(num_keys)
    if side**2 != num_keys:
        raise UserError(f'{num_keys} keys are no square grid; pass the attention by which the latent code reads the feature map')
    mean_M = weights_HNM.float().mean((0, 1))
    return np.asarray((num_keys * mean_M).reshape(side, side).cpu().numpy())


def most_different_token(weights_HNM: Tensor) -> int:
    """Number of the latent token whose attention lies farthest from the mean of all (in total variation)."""
    weights_NM = weights_HNM.float().mean(0)
    return int((weights_NM - weights_NM.mean(0)).abs().sum(1).argmax())


def upsample_grid(grid_SS: np.ndarray, height: int, width: int) -> np.ndarray:
    """A grid of cells at the size of an image, by bicubic interpolation; nowhere below 0.

    Args:
        grid_SS: Values of the cells.
        height: Pixels.
        width: Pixels.

    Returns:
        Shape (height, width).
    """
    grid = torch.from_numpy(np.ascontiguousarray(grid_SS)).float()[None, None]
    return np.asarray(F.interpolate(grid, (height, width), mode='bicubic', align_corners=False)[0, 0].clamp(min=0).numpy())


def _draw_map(axes: Any, image_HWC: np.ndarray, grid_SS: np.ndarray) -> None:
    height, width = image_HWC.shape[:2]
    scale = max(1, round(SHOWN_PIXELS / min(height, width)))  # small images get a smooth map, too
    heat = upsample_grid(grid_SS, scale * height, scale * width)
    extent = (0, width, height, 0)
    axes.imshow(image_HWC.mean(2), cmap='gray', vmin=-60, vmax=315, extent=extent)  # less contrast than the map's
    axes.imshow(heat, cmap='inferno', vmin=0, vmax=heat.max(), alpha=0.55, extent=extent)
    axes.set(xticks=(), yticks=())


def draw_attention(
    card: Card,
    weights_of_stages: Mapping[int, Tensor],
    path: str | Path,
    title: str = 'Where the latent code looks',
    tokens: bool = True,
    exit_of_stage: Mapping[int, int | None] | None = None,
) -> None:
    """Draw an image and, for each stage that reads the feature map, where its latent tokens look.

    Args:
        card: The image with the answers of the exits.
        weights_of_stages: Stage (from 1) to attention weights of the image, shape (heads, tokens, keys).
        path: Picture to write; the ending says the format.
        title: Title.
        tokens: Whether a second row shows the token of each stage that looks most unlike the mean.
        exit_of_stage: All stages of the network, and the exit whose answer belongs below each, see
            :attr:`~dynperceiver.models.DynPerceiver.exits_of_stages`. Default: the stages that have weights, without answers.

    Raises:
        ValueError: If there is no stage, or keys are no square grid.
    """
    if not weights_of_stages:
        raise ValueError('there are no attention weights; record them while the network runs (dynperceiver.layers.recording)')
    stages = sorted(weights_of_stages)
    exit_of_stage = exit_of_stage or {}
    grids = {stage: attention_grid(weights_of_stages[stage]) for stage in stages}
    height, width = card.image_HWC.shape[:2]
    panel_in = 2.3 * width / height if width < height else 2.3
    panel_height_in = panel_in * height / width
    rows = 2 if tokens else 1
    size = (max(7.5, (panel_in + 0.25) * (len(stages) + 1)), (panel_height_in + 0.75) * rows + 1.0)
    figure = load_pyplot().figure(figsize=size, layout='constrained')
    axes = figure.subplots(rows, len(stages) + 1, squeeze=False)
    figure.suptitle(title, fontsize=13, fontweight='bold', x=0.01, ha='left')
    axes[0, 0].imshow(card.image_HWC, interpolation='nearest')
    axes[0, 0].set(xticks=(), yticks=(), title=card.caption)
    if tokens:
        axes[1, 0].set_axis_off()
    lines = [(card.says(number), card.colour(number)) for number in range(1, len(card.answers) + 1)]
    for number, (text, colour) in enumerate(lines):
        place = (0.0, 1.0 - 0.085 * number) if tokens else (0.0, -0.06 - 0.085 * number)
        axes[-1, 0].text(*place, text, color=colour, fontsize=9, va='top', transform=axes[-1, 0].transAxes)
    for column, stage in enumerate(stages, 1):
        weights_HNM, grid_SS = weights_of_stages[stage], grids[stage]
        top = axes[0, column]
        _draw_map(top, card.image_HWC, grid_SS)
        top.set_title(f'stage {stage}: {weights_HNM.shape[1]} tokens\npeak {grid_SS.max():.1f} × even', fontsize=9)
        answer = exit_of_stage.get(stage)
        if answer is not None:
            top.set_xlabel(card.says(answer), fontsize=9, color=card.colour(answer))
        if tokens:
            token = most_different_token(weights_HNM)
            alone_SS = attention_grid(weights_HNM[:, token : token + 1])
            _draw_map(axes[1, column], card.image_HWC, alone_SS)
            axes[1, column].set_title(f'its token {token + 1}\npeak {alone_SS.max():.1f} × even', fontsize=9)
    side = len(grids[stages[0]])
    notes = [f'bright: much attention, each map scaled to its own peak; even is 1/{side**2} for each of {side} x {side} cells']
    if tokens:
        notes.append('above: mean over tokens; below: the token that looks most unlike that mean')
    absent = [str(stage) for stage in exit_of_stage if stage not in grids]
    if absent:
        notes.append(f'no map of stage {", ".join(absent)}: built without x2z, which reads the feature map')
    figure.supxlabel('\n'.join(notes), fontsize=8, color='0.35', x=0.01, ha='left')
    save_figure(figure, path)
