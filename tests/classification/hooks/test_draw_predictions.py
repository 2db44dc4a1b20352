"""Pictures of test images: which images, what is written under them, how large they are, where they go."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import HOOKS
from numpy.typing import NDArray

from dynperceiver.hooks import draw_exits
from dynperceiver.launch import UsageError, parse_test_args
from dynperceiver.launch import test_config as config_of_test  # under its own name pytest would take it for a test
from dynperceiver_cls import ClsDataSample
from dynperceiver_cls.hooks import DrawPredictionsHook, draw_image, draw_predictions

SCORES = torch.tensor([[0.7, 0.3], [0.4, 0.6], [0.2, 0.8], [0.1, 0.9]])


class Screen:
    """Stands in for a visualizer, and keeps what it is to show."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, float]] = []

    def show(self, picture: NDArray[np.uint8], win_name: str, wait_time: float) -> None:
        assert picture.dtype == np.uint8 and picture.shape[2] == 3
        self.shown.append((win_name, wait_time))


def runner(**metainfo: Any) -> Any:
    return SimpleNamespace(test_dataloader=SimpleNamespace(dataset=SimpleNamespace(metainfo=metainfo)), visualizer=Screen())


def batch(count: int, size: tuple[int, int] = (32, 32)) -> dict[str, torch.Tensor]:
    """Red images, as the collate function makes them."""
    images_BHWC = torch.zeros(count, *size, 3, dtype=torch.uint8)
    images_BHWC[..., 0] = 200
    return {'inputs': images_BHWC.permute(0, 3, 1, 2)}


def answers(*paths: str) -> list[ClsDataSample]:
    samples = [ClsDataSample(metainfo={'img_path': path}, gt_label=1) for path in paths]
    for sample in samples:
        sample.set_field(SCORES, 'exit_scores')
    return samples


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Text under each picture drawn."""
    texts: list[list[str]] = []

    def draw(image: NDArray[np.uint8], lines: list[str], *rest: Any) -> NDArray[np.uint8]:
        texts.append(list(lines))
        return draw_image(image, lines, *rest)

    monkeypatch.setattr(draw_predictions, 'draw_image', draw)
    return texts


def test_label_and_every_exits_answer_stand_under_the_image(drawn: list[list[str]], tmp_path: Path) -> None:
    hook = HOOKS.build({'type': 'dynperceiver_cls.DrawPredictionsHook', 'enable': True, 'out_dir': str(tmp_path / 'new' / 'folder')})
    hook.after_test_iter(runner(classes=('cat', 'dog')), 0, batch(1), answers('data/dog/a b.jpg'))
    exits = ['exit 1: 0 cat (0.70)', 'exit 2: 1 dog (0.60)', 'exit 3: 1 dog (0.80)', 'exit 4: 1 dog (0.90)']
    assert drawn == [['a b.jpg', 'label: 1 dog', *exits]]
    picture = cv2.cvtColor(cv2.imread(str(tmp_path / 'new' / 'folder' / '000000_a_b.png')), cv2.COLOR_BGR2RGB)
    assert (picture[:128, :128] == (200, 0, 0)).all(), 'an image of 32 pixels is drawn with 128, in its colours'
    text = picture[128:]
    assert (text.max(2) == text.min(2)).all() and text.min() < 50, 'black on white'
    ends = [np.nonzero((text[16 * line + 5 : 16 * line + 16] < 128).any((0, 2)))[0] for line in range(6)]
    assert all(len(columns) and columns.max() < picture.shape[1] - 2 for columns in ends), 'every line is there, to its end'


def test_images_within_files_without_labels_without_names(drawn: list[list[str]], tmp_path: Path) -> None:
    (sample,) = answers('data/set.npz#train/17')
    del sample.gt_label
    DrawPredictionsHook(enable=True, out_dir=str(tmp_path)).after_test_iter(runner(), 0, batch(1), [sample])
    assert drawn[0][:2] == ['set.npz#train/17', 'exit 1: class 0 (0.70)']
    assert [path.name for path in tmp_path.iterdir()] == ['000000_set_train_17.png']


@pytest.mark.parametrize(('rank', 'numbers'), [(0, [0, 6]), (1, [3])])
def test_every_third_image_of_the_test_set_is_drawn(rank: int, numbers: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two ranks has images 1, 3, 5 and 7; another test counts anew."""
    monkeypatch.setattr(draw_exits, 'get_world_size', lambda: 2)
    monkeypatch.setattr(draw_exits, 'get_rank', lambda: rank)
    hook = DrawPredictionsHook(enable=True, out_dir=str(tmp_path), interval=3)
    for _ in range(2):
        hook.before_test_epoch(runner())
        for first in (0, 2):
            names = [f'{2 * index + rank}.png' for index in (first, first + 1)]
            hook.after_test_iter(runner(), first // 2, batch(2), answers(*names))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f'{number:06d}_{number}.png' for number in numbers]


def test_pictures_are_shown_for_as_long_as_asked(tmp_path: Path) -> None:
    screen = runner()
    DrawPredictionsHook(enable=True, show=True, wait_time=0.5).after_test_iter(screen, 0, batch(2), answers('a.png', 'b.png'))
    assert screen.visualizer.shown == [('a.png', 0.5), ('b.png', 0.5)]


def test_nothing_is_drawn_unless_enabled(drawn: list[list[str]], tmp_path: Path) -> None:
    DrawPredictionsHook(out_dir=str(tmp_path)).after_test_iter(runner(), 0, batch(1), answers('a.png'))
    assert not drawn and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('size', 'min_px', 'drawn_size'),
    [((32, 32), 128, (128, 128)), ((40, 50), 64, (80, 100)), ((64, 64), 64, (64, 64)), ((224, 300), 128, (224, 300)), ((3, 2), 1, (3, 2))],
)
def test_small_images_are_enlarged(size: tuple[int, int], min_px: int, drawn_size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 250, (*size, 3), dtype=np.uint8)
    picture = draw_image(image, ['x'], min_px)
    height, width = drawn_size
    assert picture.shape[0] == height + 22
    factor = height // size[0]
    np.testing.assert_array_equal(picture[:height:factor, :width:factor], image)
    np.testing.assert_array_equal(picture[factor - 1 : height : factor, factor - 1 : width : factor], image)
    assert (picture[:height, width:] == 255).all()


def test_a_picture_has_pixels() -> None:
    with pytest.raises(ValueError, match=r'min_px=0: pass the pixels .* 1 or more'):
        DrawPredictionsHook(min_px=0)


def test_the_command_line_switches_it_on(tmp_path: Path) -> None:
    (tmp_path / 'some.pth').touch()
    hook = "default_hooks = dict(visualization=dict(type='dynperceiver_cls.DrawPredictionsHook', min_px=64))"
    for name, text in {'with': hook, 'without': '', 'off': 'default_hooks = dict(visualization=None)'}.items():
        (tmp_path / f'{name}.py').write_text(text)

    def merged(name: str) -> Any:
        flags = ['--show-dir', 'shown', '--interval', '5']
        return config_of_test(parse_test_args([str(tmp_path / f'{name}.py'), str(tmp_path / 'some.pth'), *flags]))

    built = HOOKS.build(merged('with').default_hooks.visualization)
    assert (built.enable, built.out_dir, built.interval, built.show, built.min_px) == (True, 'shown', 5, False, 64)
    for name in ('without', 'off'):
        with pytest.raises(UsageError, match=r"add default_hooks\.visualization: .*for image classification .*'dynperceiver_cls\.Draw"):
            merged(name)
