"""tools/vis_exits.py: pictures of easy and hard images, and of the attention, from a config and a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image

NUM_IMAGES = 12
CLASSES = ('dark', 'bright')
STATIC = [
    f'model.backbone.{setting}'
    for setting in ('_delete_=True', 'type=dynperceiver.StaticTrunk', 'feature_branch=resnet18', 'width=0.125', 'num_classes=2')
]


def _write_folders(root: Path) -> None:
    """Grey images of 48x40 pixels, a folder per class; every third one stands in the wrong folder."""
    generator = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        bright = number % 2
        pixels = generator.integers(128 * bright, 128 * bright + 128, (40, 48, 3)).astype(np.uint8)
        folder = root / CLASSES[bright ^ (number % 3 == 0)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f'{number}.png')


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Config of a narrow classifier of dark and bright images, whose checkpoint stands beside it."""
    folder = tmp_path_factory.mktemp('vis')
    _write_folders(folder / 'images')
    pipeline = [dict(type='dynperceiver_cls.LoadImage'), dict(type='dynperceiver_cls.PackInputs')]
    images = dict(type='dynperceiver_cls.ImageFolder', data_root=str(folder / 'images'), metainfo=dict(classes=CLASSES), test_mode=True)
    loader = dict(
        batch_size=5,
        num_workers=0,
        sampler=dict(type='mmengine.DefaultSampler', shuffle=False),
        collate_fn=dict(type='dynperceiver_cls.stack_samples'),
        dataset=dict(images, pipeline=pipeline),
    )
    network = dict(type='dynperceiver.DynPerceiver', feature_branch='resnet18', width=0.125, num_classes=2)
    cfg = dict(
        custom_imports=dict(imports=['dynperceiver_cls']),
        default_scope='mmengine',
        model=dict(
            type='dynperceiver_cls.DynPerceiverClassifier',
            backbone=dict(network, num_latents=16, depth_factors=(1 / 3, 1 / 3, 1 / 9, 1 / 3)),
        ),
    )
    for split in ('val', 'test'):
        cfg |= {f'{split}_dataloader': loader, f'{split}_cfg': dict(), f'{split}_evaluator': dict(type='no.such.Metric')}
    Config(cfg).dump(folder / 'tiny.py')
    torch.manual_seed(0)
    model = MODELS.build(Config(cfg).model)
    _tell_brightness(model)
    torch.save(dict(state_dict=model.state_dict()), folder / 'tiny.pth')
    return folder / 'tiny.py'


def _tell_brightness(model: torch.nn.Module) -> None:
    """Fit the exits' last layers: exits 1 to 3 always answer 'dark', exit 4 tells bright from dark by what reaches it."""
    network = model.backbone.eval()
    images = torch.cat([torch.rand(8, 3, 40, 48) * 128, torch.rand(8, 3, 40, 48) * 128 + 128])
    images = model.data_preprocessor(dict(inputs=images.byte(), data_samples=None))['inputs']
    for number, head in enumerate(network.exits, 1):
        linear = [part for part in head.modules() if isinstance(part, torch.nn.Linear) and part.out_features == 2][-1]
        seen: list[torch.Tensor] = []
        handle = linear.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0].detach()))
        with torch.no_grad():
            network(images)
        handle.remove()
        mean_C, step_C = seen[0].mean(0), seen[0][8:].mean(0) - seen[0][:8].mean(0)
        with torch.no_grad():
            linear.weight.copy_(torch.stack([-step_C, step_C]) * (2 / step_C.square().sum()))
            linear.bias.copy_(-linear.weight @ mean_C)
            if number < 4:
                linear.weight.zero_()
                linear.bias.copy_(torch.tensor([1.0, 0.0]))


@pytest.fixture
def vis(call_tool: Callable[..., None], config: Path, tmp_path: Path) -> Callable[..., Path]:
    """Function that runs the tool into a folder."""

    def call(*arguments: Any, checkpoint: Path | str | None = None) -> Path:
        call_tool('vis_exits', config, checkpoint or config.with_suffix('.pth'), '--out-dir', tmp_path / 'out', *arguments)
        return tmp_path / 'out'

    return call


def _spy(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Any, ...]]:
    """Let the pictures be drawn, and see what is drawn."""
    import dynperceiver.viz

    drawn: dict[str, tuple[Any, ...]] = {}
    for name in ('draw_gallery', 'draw_attention'):
        draw = getattr(dynperceiver.viz, name)
        monkeypatch.setattr(
            dynperceiver.viz, name, lambda *args, name=name, draw=draw, **settings: (drawn.update({name: args}), draw(*args, **settings))
        )
    return drawn


def test_pictures_of_a_data_set(vis: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    import cv2

    drawn = _spy(monkeypatch)
    out = vis('--num', 3, '--threshold', '0.7')
    assert sorted(path.name for path in out.iterdir()) == ['attention.png', 'gallery.png'], 'no logs'
    assert all(cv2.imread(str(path)).std() > 5 for path in out.iterdir())
    easy, hard = drawn['draw_gallery'][0]
    assert {card.caption for card in easy.cards} == {'dark'} and easy.note.startswith('6 of 12 images')
    assert all(card.rights[0] for card in easy.cards)
    assert [card.rights for card in hard.cards] == [(False, False, False, True)] * 3 and hard.note.startswith('4 of 12 images')
    assert all(card.caption == card.answers[3] == 'bright' and card.answers[0] == 'dark' for card in hard.cards)
    assert all(card.image_HWC.shape == (40, 48, 3) and card.image_HWC.min() >= 128 for card in hard.cards), 'images go with their answers'
    assert drawn['draw_gallery'][2] == 'What the exits answer: tiny, test images'
    assert drawn['draw_gallery'][3].startswith('at a confidence of 0.7 leave 100% at exit 1')
    card, weights = drawn['draw_attention'][:2]
    assert card is hard.cards[0]
    assert {stage: tuple(one.shape) for stage, one in weights.items()} == {i: (1, 16 // 2 ** (i - 1), 49) for i in (1, 2, 3, 4)}
    text = capfd.readouterr().out
    assert f'{out}: gallery.png and attention.png (bright)' in text and 'Easy: exit 1 is right: 6 of 12 images' in text


def test_images_of_ones_own_on_the_other_split(vis: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = _spy(monkeypatch)
    paths = [tmp_path / 'white.png', tmp_path / 'black.png']
    for level, path in zip((255, 0), paths, strict=True):
        Image.new('RGB', (64, 40 + level % 7), (level,) * 3).save(path)
    vis('--images', *paths, '--split', 'val', '--cfg-options', 'model.backbone.num_classes=2')
    groups = drawn['draw_gallery'][0]
    assert [card.caption for card in groups[2].cards] == ['white.png', 'black.png']
    assert [card.answers[3] for card in groups[2].cards] == ['bright', 'dark']
    assert all(card.rights == (None,) * 4 and card.index is None and card.leaving is None for card in groups[2].cards)
    assert drawn['draw_gallery'][2:] == ('What the exits answer: tiny, val images', '12 images')
    card, weights = drawn['draw_attention'][:2]
    assert card is groups[2].cards[0] and len(weights) == 4


def test_ablation_without_x2z(vis: Callable[..., Path], config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = _spy(monkeypatch)
    state = torch.load(config.with_suffix('.pth'), weights_only=True)['state_dict']
    kept = {key: value for key, value in state.items() if not any(f'x2z.{i}.' in key for i in (1, 2, 3)) or 'z2x' in key}
    assert 0 < len(state) - len(kept) < len(state)
    torch.save(dict(state_dict=kept), tmp_path / 'ablation.pth')
    vis('--cfg-options', 'model.backbone.x2z=False', checkpoint=tmp_path / 'ablation.pth')
    assert list(drawn['draw_attention'][1]) == [1]


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--num', '0'], r'^error: --num 0: pass 1 or more'),
        (['--threshold', '1.5'], r'^error: --threshold 1\.5: pass a confidence above 0 and at most 1'),
        (['--threshold', '0'], r'^error: --threshold 0: pass a confidence'),
        (['--images', 'none.png'], r'^error: image none\.png is missing'),
        (['--images', __file__], r'^error: image .*test_vis_exits\.py cannot be read by the pipeline of the data set \(.*\); save'),
        (['--split', 'val', '--cfg-options', 'val_dataloader=None'], r'^error: --split val: .*tiny\.py has no val_dataloader; choose'),
        (['--cfg-options', *STATIC], r'^error: DynPerceiverClassifier holds no DynPerceiver'),
    ],
)
def test_what_cannot_be_done_is_named(vis: Callable[..., Path], tmp_path: Path, flags: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        vis(*flags)
    assert not (tmp_path / 'out').exists()


def test_missing_checkpoint_is_named(vis: Callable[..., Path]) -> None:
    with pytest.raises(SystemExit, match=r'^error: checkpoint none\.pth is missing; train one with tools/train\.py'):
        vis(checkpoint='none.pth')
