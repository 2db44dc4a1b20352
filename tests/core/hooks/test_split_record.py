"""Which part of the data a checkpoint was trained on: kept in it, and the same when its training is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import ConcatDataset
from tiny_loading import TinyModel, make_runner
from tiny_texts import TinyTextDataset, make_texts

from dynperceiver.checkpoint import CheckpointError
from dynperceiver.data import HeldOutPartMixin, split_records
from dynperceiver.hooks import SplitRecordHook
from dynperceiver.launch import build_runner

HOOK = {'type': 'dynperceiver.SplitRecordHook'}
PART = dict(part='train', holdout=0.25)


class SplitTexts(HeldOutPartMixin, TinyTextDataset):
    """Images by the names of texts, of two classes in turn."""

    def load_data_list(self) -> list[dict[str, Any]]:
        return [dict(info, gt_label=number % 2) for number, info in enumerate(super().load_data_list())]

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(inputs=torch.zeros(3, 32, 32), data_samples=index)


def texts(root: Path, num_samples: int = 16, **part: Any) -> SplitTexts:
    root.mkdir(exist_ok=True)
    return SplitTexts(**make_texts(root, *['0'] * num_samples), **part)


def train(work_dir: Path, dataset: Any, resume: Path | None = None, hooks: tuple[Any, ...] = (HOOK,)) -> dict[str, Any]:
    """Train for an iteration more, and return the checkpoint's meta."""
    num_iters = 1 if resume is None else torch.load(resume)['meta']['iter'] + 1
    cfg = {'by_epoch': False, 'max_iters': num_iters, 'val_begin': 100}
    settings = dict(custom_hooks=list(hooks), train_cfg=cfg, resume=resume is not None)
    make_runner(work_dir, TinyModel(), resume, dataset, **settings).train()
    return torch.load(work_dir / f'iter_{num_iters}.pth', weights_only=True)['meta']


def test_checkpoints_keep_what_their_part_depends_on(tmp_path: Path) -> None:
    meta = train(tmp_path / 'a', texts(tmp_path / 'data', **PART))
    (record,) = meta['split_records']
    assert len(record.pop('digest')) == 64
    assert record == dict(part='train', holdout=0.25, split_seed=0, group_pattern=None, group_column=None, num_samples=16)
    assert train(tmp_path / 'b', texts(tmp_path / 'data'))['split_records'] == []
    both = ConcatDataset([texts(tmp_path / 'data', **PART), texts(tmp_path / 'data'), texts(tmp_path / 'data', 8, **PART, split_seed=3)])
    assert [(entry['split_seed'], entry['num_samples']) for entry in split_records(both)] == [(0, 16), (3, 8)]


@pytest.mark.parametrize('hooks', [[], [HOOK]])
def test_the_tools_have_the_hook_once_whatever_the_config_says(tmp_path: Path, hooks: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make_runner(tmp_path / 'a', TinyModel(), None, texts(tmp_path / 'data', **PART), custom_hooks=hooks)
    monkeypatch.setattr('dynperceiver.launch.runner.Runner.from_cfg', lambda cfg: runner)
    assert sum(isinstance(hook, SplitRecordHook) for hook in build_runner(Config(dict(model=dict(type='TinyModel')))).hooks) == 1


def test_a_training_is_resumed_on_the_same_part(tmp_path: Path) -> None:
    first = train(tmp_path / 'a', texts(tmp_path / 'data', **PART))
    again = train(tmp_path / 'b', texts(tmp_path / 'moved', **PART), tmp_path / 'a' / 'iter_1.pth')
    assert again['split_records'] == first['split_records'] and again['iter'] == 2


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(split_seed=1), ["split_seed=0 of 16 samples, and the training data now are part='train', holdout=0.25, split_seed=1 of 16"]),
        (dict(holdout=0.5), ['holdout=0.25, split_seed=0 of 16', 'holdout=0.5, split_seed=0 of 16']),
        (dict(group_pattern='.'), ["holdout=0.25, split_seed=0, group_pattern='.' of 16 samples."]),
        (dict(part='all'), ['and the training data now are all samples.']),
        (dict(num_samples=12), ['was trained on a part of other samples: since then some', 'of 16 samples', 'of 12 samples']),
    ],
)
def test_another_part_is_refused(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    train(tmp_path / 'a', texts(tmp_path / 'data', **PART))
    with pytest.raises(CheckpointError) as caught:
        train(tmp_path / 'b', texts(tmp_path / 'other', **{**PART, **changes}), tmp_path / 'a' / 'iter_1.pth')
    text = str(caught.value)
    assert text.startswith(f'{tmp_path}/a/iter_1.pth was trained on ') and 'start a new training from it with load_from' in text
    assert all(word in text for word in words), text


def test_a_new_training_may_start_from_it(tmp_path: Path) -> None:
    train(tmp_path / 'a', texts(tmp_path / 'data', **PART))
    runner = make_runner(
        tmp_path / 'b', TinyModel(), tmp_path / 'a' / 'iter_1.pth', texts(tmp_path / 'data', **PART, split_seed=1), custom_hooks=[HOOK]
    )
    runner.train()


def test_checkpoints_without_a_record(tmp_path: Path) -> None:
    """From a version without seeds, or from a training without the hook."""
    train(tmp_path / 'old', texts(tmp_path / 'data', **PART), hooks=())
    old = tmp_path / 'old' / 'iter_1.pth'
    with pytest.raises(CheckpointError, match=r'iter_1\.pth does not say how the part .* train_dataloader\.dataset\.split_seed=None, or'):
        train(tmp_path / 'a', texts(tmp_path / 'data', **PART), old)
    meta = train(tmp_path / 'b', texts(tmp_path / 'data', **PART, split_seed=None), old)
    assert meta['split_records'][0]['split_seed'] is None
    assert train(tmp_path / 'c', texts(tmp_path / 'data'), old)['split_records'] == []
    checkpoint = torch.load(old, weights_only=True)
    checkpoint['meta']['cfg'] += '\nsplit_seed = 0\n'
    torch.save(checkpoint, tmp_path / 'named.pth')
    assert train(tmp_path / 'd', texts(tmp_path / 'data', **PART), tmp_path / 'named.pth')['iter'] == 2
