"""Classification under tools/*.py: images and folders that are no good, checkpoints of other classes, another project's config."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny_hooks  # noqa: F401  registers RecordRankHook
import torch
from classification_runs import CLASSES, make_digits, write_classification_config
from mmengine.config import Config
from mmengine.runner import Runner
from silent_parameters import silent_parameters
from tiny_images import write_image
from tool_runs import close_workers, keep_layout, quick_runner, scalars

import dynperceiver_cls  # noqa: F401  registers what configs name


@pytest.fixture(scope='module')
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that tests must not change."""
    return make_digits(tmp_path_factory.mktemp('digits') / 'data')


@pytest.fixture
def changed(digits: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Images that a test may change, and the config of a training on them."""
    data = shutil.copytree(digits, tmp_path / 'data')
    # MMEngine names a run after its config and the second, and two of one name would share their log.
    return data, write_classification_config(tmp_path / f'{tmp_path.name}.py', data)


def train(config: Path, work_dir: Path) -> list[str]:
    """Train two epochs within this process; returns the images in the order in which the model saw them, as paths below the data's root."""
    record = dict(type='RecordRankHook', folder=str(work_dir))
    hooks = [dict(type=f'dynperceiver.{name}') for name in ('ResumableRandomnessHook', 'NonFiniteLossHook', 'SkippedSampleHook')]
    drawn = dict(type='Visualizer', name=str(work_dir), vis_backends=[dict(type='LocalVisBackend')])
    changes = dict(train_cfg=dict(by_epoch=True, max_epochs=2), visualizer=drawn)
    runner = quick_runner(config, work_dir, [*hooks, record], **changes)
    runner.train()
    close_workers(runner)
    root = Config.fromfile(config).data_root
    return [str(Path(name).relative_to(root)) for name in json.loads((work_dir / '0.json').read_text())['files']]


@pytest.fixture(scope='module')
def sound(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Work dir of a training on sound images, and the images in its order."""
    folder = tmp_path_factory.mktemp('sound')
    return folder / 'work', train(write_classification_config(folder / 'tiny.py', digits), folder / 'work')


BROKEN = {
    'train/four/00004.jpg': 'truncated',
    'train/one/00001.png': 'empty (0 bytes)',
    'train/three/00003.png': 'undecodable',
    'train/two/00002.png': 'truncated',
}


def spoil(data: Path) -> None:
    """Break a JPEG and three PNG files as in :data:`BROKEN`."""
    (data / 'train/four/00004.png').unlink()
    write_image(data / 'train/four/00004.jpg', 7, (300, 200))
    for name, reason in BROKEN.items():
        content = (data / name).read_bytes()
        half = content[: len(content) // 2]
        (data / name).write_bytes({'truncated': half, 'undecodable': b'a note\n', 'empty (0 bytes)': b''}[reason])


def test_training_skips_broken_images_and_changes_nothing_else(
    changed: tuple[Path, Path], sound: tuple[Path, list[str]], tmp_path: Path
) -> None:
    data, config = changed
    spoil(data)
    seen, (_, whole) = train(config, tmp_path / 'spoiled'), sound
    assert len(seen) == len(whole) == 32
    stand_ins = {(before, now) for before, now in zip(whole, seen, strict=True) if before != now}
    assert {before for before, _ in stand_ins} == {name.replace('.jpg', '.png') for name in BROKEN}
    assert len(stand_ins) == 4  # the same ones in both epochs
    assert not {now for _, now in stand_ins} & set(BROKEN)

    report = tmp_path / 'spoiled' / 'skipped_samples.txt'
    assert report.read_text() == ''.join(f'{data}/{name}\t{reason}\n' for name, reason in sorted(BROKEN.items()))
    (log,) = (tmp_path / 'spoiled').glob('*/*.log')
    text = log.read_text()
    for name, reason in BROKEN.items():
        assert text.count(f'Skipped in training: {data}/{name}: {reason}') == 1
        assert text.count(f'\n  {data}/{name}: {reason}\n') == 2
    assert all(f'Epoch {epoch}: 4 of 16 training samples were skipped' in text for epoch in (1, 2))
    lines = [line for line in scalars(tmp_path / 'spoiled') if 'train/skipped_samples' in line and 'loss' not in line]
    assert [(line['step'], line['train/skipped_samples']) for line in lines] == [(1, 4), (2, 4)]


@pytest.mark.parametrize(
    ('content', 'reason'),
    [(b'', r'empty \(0 bytes\)'), (b'a note\n', r'undecodable \(UnidentifiedImageError: ')],
    ids=['empty', 'text'],
)
def test_testing_refuses_a_broken_image(
    content: bytes,
    reason: str,
    changed: tuple[Path, Path],
    sound: tuple[Path, list[str]],
    call_tool: Callable[..., None],
) -> None:
    data, config = changed
    broken = data / 'val' / 'two' / '00002.png'
    broken.write_bytes(content)
    remedy = 'A test set must be complete, so nothing is skipped here: restore the file, or take its image file out'
    message = rf'^error: {broken}: {reason}.*{remedy}'
    for num_workers in (0, 1):
        with pytest.raises(SystemExit, match=message):
            call_tool('test', config, sound[0] / 'epoch_2.pth', '--cfg-options', f'test_dataloader.num_workers={num_workers}')


def test_missing_data_says_how_to_make_it(tmp_path: Path, call_tool: Callable[..., None]) -> None:
    config = write_classification_config(tmp_path / 'tiny.py', tmp_path / 'nowhere')
    message = rf'^error: .*Data not found: folder {tmp_path}/nowhere/train is missing; the data set comes from tools/make_demo_images\.py'
    with pytest.raises(SystemExit, match=message):
        call_tool('train', config)


def _empty_class(data: Path) -> None:
    for path in (data / 'train' / 'two').iterdir():
        path.unlink()


def _extra_class(data: Path) -> None:
    shutil.copytree(data / 'val' / 'two', data / 'val' / 'twelve')


def _lacking_class(data: Path) -> None:
    shutil.rmtree(data / 'val' / 'two')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (_empty_class, r'data/train: 1 of 10 class folders have no image: two\. Images end in .*unpack them completely'),
        (_extra_class, r'data/val: 1 of 11 folders are no class: twelve\. Folders and classes must be the same; correct'),
        (_lacking_class, r'data/val: 1 of 10 classes have no folder: two\. Folders and classes must be the same; correct'),
    ],
    ids=['empty', 'only in val', 'not in val'],
)
def test_folders_that_are_not_the_classes_are_named_before_anything_is_trained(
    change: Callable[[Path], None],
    message: str,
    changed: tuple[Path, Path],
    call_tool: Callable[..., None],
) -> None:
    data, config = changed
    change(data)
    with pytest.raises(SystemExit, match=f'^error: .*{message}'):
        call_tool('train', config)
    (log,) = config.with_name(f'{config.stem}_work').glob('*/*.log')
    assert 'Epoch(train)' not in log.read_text()


REVERSED = f'test_dataloader.dataset.metainfo.classes="{list(CLASSES[::-1])}"'.replace(' ', '').replace("'", '')


@pytest.mark.parametrize(
    ('change', 'option', 'message'),
    [
        (
            lambda data: None,
            REVERSED,
            r"ImageFolder has \(10 names in the checkpoint, 10 in the data set, the same names in another order: class 0 is 'eight' there "
            r"and 'zero' here; .*and 7 more\)",
        ),
        (
            lambda data: (data / 'val' / 'five').rename(data / 'val' / 'fife'),
            'test_dataloader.dataset.class_folder=None',
            r"ImageFolder has \(10 names in the checkpoint, 10 in the data set, class 1 is 'five' there and 'fife' here\)",
        ),
        (
            lambda data: shutil.rmtree(data / 'val' / 'zero'),
            'test_dataloader.dataset.class_folder=None',
            r"ImageFolder has \(10 names in the checkpoint, 9 in the data set, class 9 is 'zero' there and none here\)",
        ),
    ],
    ids=['another order', 'another name', 'a class less'],
)
def test_checkpoint_of_other_classes_is_refused(
    change: Callable[[Path], object],
    option: str,
    message: str,
    changed: tuple[Path, Path],
    sound: tuple[Path, list[str]],
    call_tool: Callable[..., None],
) -> None:
    data, config = changed
    change(data)
    checkpoint = sound[0] / 'epoch_2.pth'
    with pytest.raises(SystemExit, match=rf'^error: {checkpoint} was trained on other classes than {message}\. The names must be the same'):
        call_tool('test', config, checkpoint, '--cfg-options', option)


def test_checkpoint_with_another_number_of_classes_is_refused(
    changed: tuple[Path, Path], sound: tuple[Path, list[str]], call_tool: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = sound[0] / 'epoch_2.pth'
    message = rf'^error: {checkpoint}: .*bias \(10,\) \(model: \(9,\)\).*The number of classes must be equal; to start from it with'
    with pytest.raises(SystemExit, match=message):
        call_tool('test', changed[1], checkpoint, '--cfg-options', 'model.backbone.num_classes=9')


FOREIGN = """\
custom_imports = dict(imports=['dynperceiver_cls'])
default_scope = '{scope}'
model = dict(
    type='dynperceiver_cls.DynPerceiverClassifier',
    backbone=dict(
        type='dynperceiver.DynPerceiver', feature_branch='resnet18', width=0.125, num_latents=16,
        depth_factors=(1 / 3, 1 / 3, 1 / 9, 1 / 3), num_classes=10),
    data_preprocessor=dict(
        type='dynperceiver_cls.ClsDataPreprocessor', mixing=dict(type='dynperceiver_cls.MixupCutmix', num_classes=10)))
steps = [dict(type='dynperceiver_cls.' + name) for name in ('LoadImage', 'PackInputs')]
images = dict(type='dynperceiver_cls.ImageFolder', data_root='{data}', pipeline=steps)
train_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True), collate_fn=dict(type='dynperceiver_cls.stack_samples'),
    dataset=dict(images, data_prefix=dict(img_path='train'), indices=4))
val_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), collate_fn=dict(type='dynperceiver_cls.stack_samples'),
    dataset=dict(images, data_prefix=dict(img_path='val'), test_mode=True))
train_cfg, val_cfg = dict(by_epoch=True, max_epochs=1), dict()
val_evaluator = dict(type='dynperceiver.MultiExitAccuracy')
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
custom_hooks = [dict(type='dynperceiver.SkippedSampleHook')]
visualizer = dict(type='mmengine.Visualizer', name='{work_dir}', vis_backends=[dict(type='mmengine.LocalVisBackend')])
work_dir = '{work_dir}'
"""


def test_another_projects_config_needs_custom_imports_alone(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step is trained and validated, with every name looked up from the other project's scope."""
    keep_layout(monkeypatch)
    scope = 'mmdet' if find_spec('mmdet') else 'mmengine'
    (tmp_path / 'foreign.py').write_text(FOREIGN.format(scope=scope, data=digits, work_dir=tmp_path / 'work'))
    runner = Runner.from_cfg(Config.fromfile(tmp_path / 'foreign.py'))
    assert runner.default_scope.scope_name == scope
    before = {name: parameter.detach().clone() for name, parameter in runner.model.named_parameters()}
    runner.train()
    assert runner.iter == 1
    moved = {name for name, parameter in runner.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved | silent_parameters(runner.model) == set(before)
    (line,) = [line for line in scalars(tmp_path / 'work') if 'acc/exit1_top1' in line]
    assert {name for name in line if name.endswith('top1')} == {f'acc/exit{i}_top1' for i in (1, 2, 3, 4)}
