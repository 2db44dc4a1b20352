"""A gallery of samples that leave early and of samples that need the whole network.

Shape suffixes: E exits, H/W image, C = 3 colours (RGB).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynperceiver_runtime import UserError

from ..metrics import ExitAnswers
from .files import load_pyplot, save_figure

__all__ = ['Card', 'CardGroup', 'choose_groups', 'draw_gallery', 'leaving_fractions', 'make_card', 'sample_image']

RIGHT, WRONG, UNKNOWN = '#14803c', '#c0262d', '0.25'
NAME_LENGTH = 15
COLUMNS = 8
CELL_IN, IMAGE_IN, GAP_IN, LINE_IN, HEADER_IN, MARGIN_IN = 1.8, 1.6, 0.06, 0.165, 0.56, 0.3


@dataclass(frozen=True)
class Card:
    """An image with what every exit says of it.

    Attributes:
        image_HWC: uint8, RGB.
        caption: Name of its class; of an image of one's own, the file's.
        answers: Name of each exit's answer.
        confidences: Score of each exit's answer, in [0, 1].
        rights: Whether each exit is right; ``None`` where the label is unknown.
        leaving: Number of the exit at which it leaves; ``None`` where no threshold is given.
        index: Number in the data set; ``None`` for an image of one's own.
    """

    image_HWC: np.ndarray
    caption: str
    answers: tuple[str, ...]
    confidences: tuple[float, ...]
    rights: tuple[bool | None, ...]
    leaving: int | None = None
    index: int | None = None

    def says(self, number: int) -> str:
        """Answer of exit 1..E with its confidence."""
        return f'exit {number}: {self.answers[number - 1]} {100 * self.confidences[number - 1]:.0f} %'

    def colour(self, number: int) -> str:
        """Colour of the answer of exit 1..E."""
        return {True: RIGHT, False: WRONG, None: UNKNOWN}[self.rights[number - 1]]


@dataclass(frozen=True)
class CardGroup:
    """Cards that stand together.

    Attributes:
        title: What they have in common.
        note: Some more, how many there are for example.
        cards: The cards.
    """

    title: str
    note: str
    cards: tuple[Card, ...]


def _shorten(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else f'{name[: NAME_LENGTH - 1]}…'


def _name(classes: Sequence[str] | None, label: int) -> str:
    return _shorten(classes[label].split(',')[0]) if classes else f'class {label}'  # ImageNet's names list synonyms


def make_card(
    image_HWC: np.ndarray,
    answers: ExitAnswers,
    row: int = 0,
    classes: Sequence[str] | None = None,
    threshold: float | None = None,
    own_name: str | None = None,
) -> Card:
    """Card of one row of answers.

    Args:
        image_HWC: Image, uint8, RGB.
        answers: Answers to a data set.
        row: Row in the answers.
        classes: Names of the classes; ``None`` writes their numbers.
        threshold: Confidence that lets a sample leave.
        own_name: Name of an image that is no sample of the data set, and whose label is unknown.
    """
    return Card(
        image_HWC=image_HWC,
        caption=_shorten(own_name) if own_name else _name(classes, int(answers.label_S[row])),
        answers=tuple(_name(classes, int(answer)) for answer in answers.answer_SE[row]),
        confidences=tuple(float(confidence) for confidence in answers.confidence_SE[row]),
        rights=tuple(None if own_name else bool(right) for right in answers.right_SE[row]),
        leaving=None if threshold is None else int(answers.leaving_S(threshold)[row]),
        index=None if own_name else int(answers.index_S[row]),
    )


def choose_groups(
    answers: ExitAnswers, dataset: Any, num: int = 8, classes: Sequence[str] | None = None, threshold: float | None = None
) -> tuple[CardGroup, CardGroup]:
    """The easy and the hard samples of a data set.

    Easy are those that exit 1 gets right, the most confident first. Hard are those that the last exit alone gets right, the most
    confident first; where there are none, those that the last exit gets right and whose confidence grows most from exit 1 to the last.

    Args:
        answers: Answers to the data set.
        dataset: The data set, whose ``dataset[index]['inputs']`` are images.
        num: Samples per group.
        classes: Names of the classes.
        threshold: Confidence that lets a sample leave.

    Raises:
        UserError: If there is no easy or no hard sample, or ``num`` is less than 1.
    """
    if num < 1:
        raise UserError(f'num={num}: show 1 or more images per group')
    total, num_exits = answers.right_SE.shape
    easy, hard, gaining = answers.easy(), answers.hard(), answers.gaining()
    for number, rows in ((1, easy), (num_exits, gaining)):
        if not len(rows):
            kind = 'easy' if number == 1 else 'hard'
            raise UserError(
                f'exit {number} is right on none of the {total} images, so there is no {kind} one to show; check that the checkpoint is '
                'trained and that its labels are those of this data set, or use a larger data set'
            )

    def cards(rows: np.ndarray) -> tuple[Card, ...]:
        return tuple(
            make_card(sample_image(dataset[int(answers.index_S[row])]), answers, int(row), classes, threshold) for row in rows[:num]
        )

    easy_note = f'{len(easy)} of {total} images ({len(easy) / total:.1%}); the most confident {min(num, len(easy))}'
    if len(hard):
        hard_note = f'{len(hard)} of {total} images ({len(hard) / total:.1%}); the most confident {min(num, len(hard))}'
        hard_group = CardGroup(f'Hard: only exit {num_exits} is right', hard_note, cards(hard))
    else:
        hard_note = f'exit {num_exits} alone is right on none of {total} images; of the {len(gaining)} on which it is right, those whose '
        hard_note += f'confidence grows most from exit 1 to exit {num_exits}'
        hard_group = CardGroup(f'Hard: exit {num_exits} is right and much surer than exit 1', hard_note, cards(gaining))
    return CardGroup('Easy: exit 1 is right', easy_note, cards(easy)), hard_group


def leaving_fractions(answers: ExitAnswers, threshold: float) -> str:
    """Line that says how many samples leave at each exit, and how many are right."""
    leaving_S = answers.leaving_S(threshold)
    fractions = np.bincount(leaving_S, minlength=answers.answer_SE.shape[1] + 1)[1:] / len(leaving_S)
    right = answers.right_SE[np.arange(len(leaving_S)), leaving_S - 1].mean()
    exits = ', '.join(f'{fraction:.0%} at exit {number}' for number, fraction in enumerate(fractions, 1))
    return f'at a confidence of {threshold:g} leave {exits}; {right:.1%} of the answers are right'


def draw_gallery(groups: Sequence[CardGroup], path: str | Path, title: str, subtitle: str = '') -> None:
    """Draw groups of cards below each other.

    Args:
        groups: The groups.
        path: Picture to write; the ending says the format.
        title: Title.
        subtitle: Line below it.
    """
    columns = min(COLUMNS, max(4, *(len(group.cards) for group in groups)))
    num_lines = 5 if any(card.leaving is not None for group in groups for card in group.cards) else 4
    shapes = [card.image_HWC.shape for group in groups for card in group.cards]
    image_in = IMAGE_IN * min(1, max(height / width for height, width, _ in shapes))
    row_in = image_in + (num_lines + 0.9) * LINE_IN
    rows = [-(-len(group.cards) // columns) for group in groups]
    width_in = columns * CELL_IN + 2 * MARGIN_IN
    height_in = 0.85 + sum(HEADER_IN + count * row_in for count in rows) + 0.3
    figure = load_pyplot().figure(figsize=(width_in, height_in))

    def write(x_in: float, y_in: float, text: str, limit_in: float | None = None, **style: Any) -> None:
        artist = figure.text(x_in / width_in, 1 - y_in / height_in, text, va='top', **style)
        wide_in = artist.get_window_extent().width / figure.dpi
        if x_in + wide_in > (right_in := limit_in or width_in - MARGIN_IN):
            artist.set_fontsize(artist.get_fontsize() * (right_in - x_in) / wide_in)

    write(MARGIN_IN, 0.2, title, fontsize=14, fontweight='bold')
    write(MARGIN_IN, 0.5, subtitle, fontsize=9, color='0.35')
    top_in = 0.85
    for group, count in zip(groups, rows, strict=True):
        line = figure.add_artist(load_pyplot().Line2D([MARGIN_IN / width_in, 1 - MARGIN_IN / width_in], [1 - top_in / height_in] * 2))
        line.set(color='0.75', linewidth=0.8)
        write(MARGIN_IN, top_in + 0.1, group.title, fontsize=11, fontweight='bold')
        write(MARGIN_IN, top_in + 0.31, group.note, fontsize=8.5, color='0.35')
        for place, card in enumerate(group.cards):
            x_in = MARGIN_IN + place % columns * CELL_IN
            y_in = top_in + HEADER_IN + place // columns * row_in
            box = (x_in / width_in, 1 - (y_in + image_in) / height_in, IMAGE_IN / width_in, image_in / height_in)
            axes = figure.add_axes(box, anchor='SW')
            axes.imshow(card.image_HWC, interpolation='nearest')
            axes.set_axis_off()
            last = len(card.answers)
            texts = [
                (card.caption, dict(fontweight='bold')),
                (card.says(1), dict(color=card.colour(1))),
                (card.says(last), dict(color=card.colour(last))),
            ]
            if card.leaving is not None:
                texts.append((f'leaves at exit {card.leaving}', dict(color='0.35')))
            y_in += image_in + GAP_IN
            for number, (text, style) in enumerate(texts):
                write(x_in, y_in + number * LINE_IN, text, x_in + CELL_IN - GAP_IN, fontsize=8, **style)
            for number, right in enumerate(card.rights, 1):
                if right is not None:
                    where = (x_in + (number - 1) * 0.27, y_in + len(texts) * LINE_IN)
                    write(*where, f'{number}{"✓" if right else "✗"}', fontsize=8, color=card.colour(number))
        top_in += HEADER_IN + count * row_in
    marks = 'below each image: its label, the answers of the first and of the last exit with their confidence, and which exits are right'
    write(MARGIN_IN, height_in - 0.25, marks, fontsize=8, color='0.35')
    save_figure(figure, path)


def sample_image(sample: Mapping[str, Any]) -> np.ndarray:
    """The image of a sample as the model sees it, RGB of shape (H, W, 3), uint8.

    Raises:
        UserError: If the sample's ``inputs`` are no such image.
    """
    inputs = sample['inputs']
    if not isinstance(inputs, torch.Tensor) or inputs.dtype != torch.uint8 or inputs.dim() != 3 or inputs.shape[0] != 3:
        found = f'{inputs.dtype} of shape {tuple(inputs.shape)}' if isinstance(inputs, torch.Tensor) else type(inputs).__name__
        raise UserError(f'the pipeline gives {found} as inputs, but a picture is drawn from an uint8 image of shape (3, H, W)')
    return np.asarray(inputs.permute(1, 2, 0).cpu().numpy())
