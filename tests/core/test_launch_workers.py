"""``num_workers=0`` on the command line of the tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynperceiver.launch import parse_train_args, train_config

CONFIG = """\
train_dataloader = dict(num_workers=2, persistent_workers=True)
val_dataloader = dict(num_workers=2, persistent_workers=True)
test_dataloader = None
"""


@pytest.mark.parametrize('workers', [0, 1])
def test_workers_that_are_none_do_not_persist(tmp_path: Path, workers: int) -> None:
    (tmp_path / 'config.py').write_text(CONFIG)
    arguments = [str(tmp_path / 'config.py'), '--cfg-options', f'train_dataloader.num_workers={workers}']
    cfg = train_config(parse_train_args(arguments))
    assert cfg.train_dataloader.persistent_workers is (workers > 0)
    assert cfg.val_dataloader.persistent_workers is True
