"""A data set of text files, for what data sets of every task do about broken files."""

from __future__ import annotations

import os.path as osp
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from dynperceiver.data import BadSampleMixin, Fault, Reason

__all__ = ['TinyTextDataset', 'make_texts', 'read_number']


def read_number(info: dict[str, Any]) -> dict[str, Any]:
    """The pipeline: a file's text is a number."""
    info['reader'] = Path(info['path']).read_text(encoding='utf-8')
    return dict(inputs=torch.tensor([float(info['reader'])]), data_samples=info['path'])


class _Lines(BaseDataset):
    def load_data_list(self) -> list[dict[str, Any]]:
        names = Path(self.ann_file).read_text(encoding='utf-8').split()
        return [dict(path=osp.join(self.data_prefix['text'], name)) for name in names]


@DATASETS.register_module(force=True)
class TinyTextDataset(BadSampleMixin, _Lines):
    """Files at fault: missing ones, empty ones (before the pipeline), words (the pipeline raises), and ``-1`` (after the pipeline)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**dict(pipeline=[read_number]) | kwargs)

    def sample_path(self, info: dict[str, Any]) -> str:
        return info['path']

    def fault_before(self, info: dict[str, Any]) -> Fault | None:
        if not osp.isfile(info['path']):
            return Fault(info['path'], Reason.MISSING)
        return None if osp.getsize(info['path']) else Fault(info['path'], Reason.EMPTY)

    def fault_after(self, info: dict[str, Any]) -> Fault | None:
        return Fault(info['path'], Reason.OTHER_SIZE, 'below 0', remedy='write 0') if info['reader'] == '-1' else None

    def fault_of_failure(self, info: dict[str, Any]) -> Fault | None:
        text = Path(info['path']).read_text(encoding='utf-8')
        return None if text.lstrip('-').isdigit() else Fault(info['path'], Reason.UNDECODABLE, text)


def make_texts(root: Path, *texts: str | None, **kwargs: Any) -> dict[str, Any]:
    """Write ``0.txt``, ``1.txt``, ... (None: listed only) and ``list.txt``; returns the data set's config."""
    for i, text in enumerate(texts):
        if text is not None:
            (root / f'{i}.txt').write_text(text, encoding='utf-8')
    (root / 'list.txt').write_text(''.join(f'{i}.txt\n' for i in range(len(texts))), encoding='utf-8')
    config = dict(ann_file='list.txt', data_root=str(root), data_prefix=dict(text=''), serialize_data=False)
    return config | kwargs
