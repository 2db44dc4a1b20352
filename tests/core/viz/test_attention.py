"""Maps of attention: numbers by hand, and a picture that leaves out what is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from core_models import narrow_shadow

from dynperceiver.viz import Card, attention_grid, draw_attention, most_different_token, upsample_grid

CARD = Card(
    np.zeros((16, 24, 3), np.uint8), 'cat', ('dog', 'cat', 'cat', 'cat'), (0.5, 0.6, 0.7, 0.8), (False, True, True, True), index=5
)
PAPER = {1: None, 2: None, 3: 1, 4: 2}  # stages, and the exits that classify their latent code


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures in place of files."""
    figures: list[Any] = []
    monkeypatch.setattr('dynperceiver.viz.attention.save_figure', lambda figure, path: figures.append(figure))
    return figures


def _weights(tokens: int, side: int = 7, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(1, tokens, side**2, generator=generator)).softmax(-1)


def test_grid_by_hand() -> None:
    weights_HNM = torch.tensor([[[1.0, 0, 0, 0], [0, 0, 1, 0]], [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]])  # 2 heads, 2 tokens, 2x2 keys
    assert attention_grid(weights_HNM).tolist() == [[1.5, 0.5], [1.5, 0.5]]
    assert attention_grid(torch.full((1, 5, 9), 1 / 9)) == pytest.approx(np.ones((3, 3))), 'an even share is 1'
    assert attention_grid(_weights(8).bfloat16()).mean() == pytest.approx(1, abs=0.01)


def test_keys_that_are_no_grid() -> None:
    with pytest.raises(ValueError, match='48 keys are no square grid; pass the attention by which the latent code reads the feature map'):
        attention_grid(torch.full((1, 2, 48), 1 / 48))


def test_most_different_token() -> None:
    weights_HNM = torch.tensor([[[0.5, 0.5, 0, 0], [0.4, 0.6, 0, 0], [0, 0.2, 0.8, 0], [0.5, 0.4, 0.1, 0]]])
    assert most_different_token(weights_HNM) == 2
    assert most_different_token(weights_HNM.roll(1, 1)) == 3


def test_upsampling_keeps_place_and_sign() -> None:
    grid = np.zeros((7, 7), np.float32)
    grid[2, 5] = 4
    heat = upsample_grid(grid, 70, 140)
    assert heat.shape == (70, 140) and heat.min() == 0, 'bicubic interpolation swings below zero'
    peak = np.unravel_index(heat.argmax(), heat.shape)
    assert abs(peak[0] - 24.5) <= 1 and abs(peak[1] - 109.5) <= 1, 'in the middle of its cell'
    assert np.allclose(upsample_grid(np.full((7, 7), 2.0), 20, 20), 2)


def test_panels_of_all_stages(drawn: list[Any]) -> None:
    weights = {stage: _weights(64 // 2**stage, seed=stage) for stage in (1, 2, 3, 4)}
    draw_attention(CARD, weights, 'a.png', exit_of_stage=PAPER)
    (figure,) = drawn
    assert len(figure.axes) == 10
    figure.canvas.draw()
    top, bottom = figure.axes[:5], figure.axes[5:]
    assert [axes.get_title().splitlines()[0] for axes in top] == ['cat', *(f'stage {i}: {64 // 2**i} tokens' for i in (1, 2, 3, 4))]
    assert [axes.get_xlabel() for axes in top] == ['', '', '', 'exit 1: dog 50 %', 'exit 2: cat 60 %']
    assert top[3].xaxis.label.get_color() != top[4].xaxis.label.get_color(), 'wrong and right'
    for stage in (1, 2, 3, 4):
        grid = attention_grid(weights[stage])
        assert f'peak {grid.max():.1f} × even' in top[stage].get_title()
        heat = top[stage].images[1].get_array()
        assert heat.shape == (224, 336) and np.allclose(heat, upsample_grid(grid, 224, 336)), 'smooth on a small image, too'
        assert list(top[stage].images[1].get_extent()) == [0, 24, 16, 0], 'on the whole image'
        token = most_different_token(weights[stage])
        assert bottom[stage].get_title().startswith(f'its token {token + 1}\n')
        alone = attention_grid(weights[stage][:, token : token + 1])
        assert np.allclose(bottom[stage].images[1].get_array(), upsample_grid(alone, 224, 336))
    assert [text.get_text() for text in bottom[0].texts] == [CARD.says(number) for number in (1, 2, 3, 4)]
    assert 'no map of stage' not in figure._supxlabel.get_text()


@pytest.mark.parametrize('tokens', [True, False])
def test_stages_that_do_not_read(drawn: list[Any], tokens: bool) -> None:
    draw_attention(CARD, {1: _weights(8)}, 'a.png', tokens=tokens, exit_of_stage=PAPER)
    (figure,) = drawn
    assert len(figure.axes) == (4 if tokens else 2)
    notes = figure._supxlabel.get_text()
    assert 'no map of stage 2, 3, 4: built without x2z' in notes and '7 x 7 cells' in notes
    assert ('below: the token' in notes) == tokens
    figure.canvas.draw()
    boxes = [axes.get_tightbbox() for axes in figure.axes] + [figure._supxlabel.get_window_extent(), figure._suptitle.get_window_extent()]
    for number, box in enumerate(boxes):
        assert box.x0 > -2 and box.y0 > -2 and box.x1 < figure.bbox.x1 + 2 and box.y1 < figure.bbox.y1 + 2
        assert not [other for other in boxes[:number] if box.shrunk(0.99, 0.99).overlaps(other.shrunk(0.99, 0.99))]


def test_stages_and_exits_are_the_networks_own(drawn: list[Any]) -> None:
    assert narrow_shadow('resnet18').exits_of_stages == PAPER
    assert narrow_shadow('resnet18', early_exits='feature').exits_of_stages == dict.fromkeys(PAPER), 'its exits classify maps'
    assert narrow_shadow('resnet18', num_classes=None).exits_of_stages == dict.fromkeys(PAPER)
    draw_attention(CARD, {1: _weights(8)}, 'a.png')
    assert [axes.get_xlabel() for axes in drawn[0].axes] == [''] * 4
    assert 'no map of stage' not in drawn[0]._supxlabel.get_text(), 'nobody said which stages there are'


def test_nothing_recorded_or_written() -> None:
    with pytest.raises(ValueError, match='there are no attention weights; record them while the network runs'):
        draw_attention(CARD, {}, 'a.png')


def test_file_is_written(tmp_path: Path) -> None:
    import cv2

    draw_attention(CARD, {1: _weights(8), 3: _weights(4)}, tmp_path / 'new' / 'attention.png')
    assert cv2.imread(str(tmp_path / 'new' / 'attention.png')).std() > 5
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['attention.png']
