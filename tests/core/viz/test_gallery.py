"""The gallery: the right cards in the right groups, and a picture without overlaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynperceiver.metrics import ExitAnswers
from dynperceiver.viz import Card, CardGroup, choose_groups, draw_gallery, leaving_fractions, make_card

CLASSES = ('tench, Tinca tinca', 'a class with an unusually long name')


class Images:
    """A data set whose images show their number."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {'inputs': torch.full((3, 8, 8), index, dtype=torch.uint8)}


def _answers(right: list[list[int]], confidence: list[list[float]] | None = None) -> ExitAnswers:
    """Answers to images 40, 41, .. of label 0."""
    count = len(right)
    confidence_SE = np.linspace(0.5, 0.9, 2 * count).reshape(count, 2) if confidence is None else np.array(confidence)
    return ExitAnswers(np.arange(40, 40 + count), np.zeros(count, dtype=int), 1 - np.array(right), confidence_SE)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures in place of files."""
    figures: list[Any] = []
    monkeypatch.setattr('dynperceiver.viz.gallery.save_figure', lambda figure, path: figures.append(figure))
    return figures


def test_groups_of_easy_and_hard_images() -> None:
    easy, hard = choose_groups(_answers([[1, 1], [0, 1], [1, 0], [0, 1], [0, 0]]), Images(), 1, CLASSES, threshold=0.6)
    assert easy.title == 'Easy: exit 1 is right' and easy.note == '2 of 5 images (40.0%); the most confident 1'
    assert hard.title == 'Hard: only exit 2 is right' and hard.note == '2 of 5 images (40.0%); the most confident 1'
    (card,) = easy.cards
    assert (card.index, card.caption, card.rights, card.leaving) == (42, 'tench', (True, False), 1)
    assert card.image_HWC.shape == (8, 8, 3) and (card.image_HWC == 42).all()
    assert card.says(2) == 'exit 2: a class with a… 72 %'
    assert [one.index for one in hard.cards] == [43]


def test_no_image_that_the_last_exit_alone_gets_right() -> None:
    answers = _answers([[1, 1, 1], [1, 0, 1], [0, 1, 1], [1, 0, 0]], [[0.5, 0.6, 0.7], [0.2, 0.3, 0.9], [0.8, 0.4, 0.6], [0.1, 0.2, 0.9]])
    _, hard = choose_groups(answers, Images(), 2)
    assert hard.title == 'Hard: exit 3 is right and much surer than exit 1'
    assert hard.note.startswith('exit 3 alone is right on none of 4 images; of the 3 on which it is right, those whose confidence grows')
    assert [card.index for card in hard.cards] == [41, 40]
    assert hard.cards[0].caption == 'class 0' and hard.cards[0].leaving is None


@pytest.mark.parametrize(('right', 'number', 'kind'), [([[0, 1], [0, 0]], 1, 'easy'), ([[1, 0], [0, 0]], 2, 'hard')])
def test_no_image_of_a_kind(right: list[list[int]], number: int, kind: str) -> None:
    with pytest.raises(ValueError, match=f'exit {number} is right on none of the 2 images, so there is no {kind} one to show; check'):
        choose_groups(_answers(right), Images())
    with pytest.raises(ValueError, match='num=0: show 1 or more images per group'):
        choose_groups(_answers([[1, 1]]), Images(), 0)


def test_fractions_that_leave() -> None:
    text = leaving_fractions(_answers([[1, 1], [0, 1], [1, 0], [0, 0]], [[0.9, 0.9], [0.2, 0.3], [0.3, 0.9], [0.1, 0.1]]), 0.8)
    assert text == 'at a confidence of 0.8 leave 25% at exit 1, 75% at exit 2; 50.0% of the answers are right'


def _texts(figure: Any) -> list[tuple[str, str]]:
    return [(text.get_text(), text.get_color()) for text in figure.texts]


def test_texts_and_images(drawn: list[Any]) -> None:
    groups = choose_groups(_answers([[1, 1], [0, 1]], [[0.9, 0.95], [0.4, 0.8]]), Images(), threshold=0.7)
    own = make_card(np.zeros((4, 6, 3), np.uint8), _answers([[0, 1]]), own_name='my_photo_of_a_bird.jpeg')
    draw_gallery([*groups, CardGroup('Own', 'note', (own,))], 'a.png', 'Title', 'subtitle')
    (figure,) = drawn
    texts = _texts(figure)
    green, red, grey = '#14803c', '#c0262d', '0.25'
    titles = {'Title', 'subtitle', 'Easy: exit 1 is right', 'Hard: only exit 2 is right', 'Own', 'note'}
    assert {text for text, _ in texts} >= {*titles, 'my_photo_of_a_…', 'leaves at exit 1'}
    easy, hard, last = (texts.index((f'exit 1: {what}', colour)) for what, colour in
                        (('class 0 90 %', green), ('class 1 40 %', red), ('class 1 50 %', grey)))
    assert easy < hard < last
    assert [text for text, _ in texts[hard : hard + 5]] == ['exit 1: class 1 40 %', 'exit 2: class 0 80 %', 'leaves at exit 2', '1✗', '2✓']
    assert [colour for _, colour in texts[hard + 3 : hard + 5]] == [red, green]
    assert not [text for text, _ in texts[last:] if text.startswith(('1✗', '1✓'))], 'the label of an own image is unknown'
    assert [int(axes.images[0].get_array().max()) for axes in figure.axes] == [40, 41, 0]


@pytest.mark.parametrize('shape', [(8, 8, 3), (6, 18, 3), (18, 6, 3)])
def test_nothing_overlaps(drawn: list[Any], shape: tuple[int, int, int]) -> None:
    card = Card(np.zeros(shape, np.uint8), 'WWWWWWWWWWWWWWW', ('mmmmmm mmmmmmm…',) * 4, (1.0,) * 4, (True, False) * 2, 3, 0)
    draw_gallery([CardGroup('A', 'note', (card,) * 11), CardGroup('B', 'note', (card,) * 3)], 'a.png', 'T', 'S')
    (figure,) = drawn
    figure.canvas.draw()
    heights = []
    boxes = [axes.get_window_extent() for axes in figure.axes] + [text.get_window_extent() for text in figure.texts]
    for number, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.y1 <= figure.bbox.y1 and box.x1 <= figure.bbox.x1
        heights.append(box.height)
        for other in boxes[:number]:
            wide = min(box.x1, other.x1) - max(box.x0, other.x0)
            high = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert wide <= 1 or high <= 1, (box, other)
    assert min(heights) > 0 and len(figure.axes) == 14


def test_file_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2
    from matplotlib.figure import Figure

    out = tmp_path / 'pictures' / 'gallery.png'
    groups = choose_groups(_answers([[1, 1], [0, 1]]), Images())
    draw_gallery(groups, out, 'Title')
    assert cv2.imread(str(out)).std() > 5 and [path.name for path in out.parent.iterdir()] == ['gallery.png']
    before = out.read_bytes()

    def half(self: Any, path: Path, **_: Any) -> None:
        path.write_bytes(b'half')
        raise OSError('disk is full')

    monkeypatch.setattr(Figure, 'savefig', half)
    with pytest.raises(OSError, match='disk is full'):
        draw_gallery(groups, out, 'Title')
    assert out.read_bytes() == before
