"""mmaction2's video and raw-frame data sets with what our data sets do about broken files and held-out parts."""

from __future__ import annotations

import os.path as osp
import re
from collections.abc import Callable
from typing import Any

from mmaction.datasets import RawframeDataset as _RawframeDataset
from mmaction.datasets import VideoDataset as _VideoDataset
from mmengine.fileio import list_from_file

from dynperceiver.data import BadSampleMixin, DatasetError, Fault, HeldOutPartMixin, Reason, jpeg_looks_cut

from ..registry import DATASETS
from .diagnosis import diagnose_frame, diagnose_raw_frames, diagnose_video, quick_look, unique_ints

__all__ = ['RawframeDataset', 'VideoDataset']


class _SplitByLabel(HeldOutPartMixin):
    """Held-out parts of mmaction2's data sets."""

    def split_label(self, info: dict[str, Any]) -> int | None:
        """Return the label, None for a list of several and for the -1 of a line without one."""
        label = info['label']
        return label if isinstance(label, int) and label >= 0 else None


@DATASETS.register_module()
class VideoDataset(_SplitByLabel, BadSampleMixin, _VideoDataset):
    """mmaction2's ``VideoDataset`` that names missing data, skips broken videos in training and refuses them in testing.

    Takes the arguments of ``mmaction.datasets.VideoDataset``, of :class:`~dynperceiver.data.BadSampleMixin` and of
    :class:`~dynperceiver.data.HeldOutPartMixin` (``part``, ``holdout``, ``split_seed``, ``group_pattern``). Videos at URLs are left to the
    pipeline alone.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """Load the annotations.

        Raises:
            MissingFileError: If the annotation file or a data folder is missing.
            DatasetError: If a line of the annotation file is none.
        """
        self._require_data()
        labels = 'one or more class numbers' if self.multi_class else 'a class number'
        rule = f'the path of a video and {labels}, with {self.delimiter!r} between them'
        _check_lines(self.ann_file, lambda line: self._is_right(line.split(self.delimiter)), rule)
        return super().load_data_list()

    def _is_right(self, parts: list[str]) -> bool:
        return (self.multi_class or len(parts) <= 2) and _are_numbers(parts[1:])

    def sample_path(self, info: dict[str, Any]) -> str:
        """Return the video's path; without an extension it means an mp4 file, as in mmaction2's transforms."""
        path = info['filename']
        return path if osp.splitext(path)[1] else f'{path}.mp4'

    def fault_before(self, info: dict[str, Any]) -> Fault | None:
        """Look for a missing, empty or cut-off file.

        This comes before decoding because decord makes grey or repeated frames of cut-off files without a word, and of some that it
        reads from memory, as with mmaction2's own ``DecordInit``, a segmentation fault.
        """
        path = self.sample_path(info)
        return None if self.is_remote(path) else quick_look(path)

    def fault_of_failure(self, info: dict[str, Any]) -> Fault | None:
        """Look whether the file opens and the frames that were asked for decode."""
        path = self.sample_path(info)
        return None if self.is_remote(path) else diagnose_video(path, info.get('frame_inds'))


@DATASETS.register_module()
class RawframeDataset(_SplitByLabel, BadSampleMixin, _RawframeDataset):
    """mmaction2's ``RawframeDataset`` that names missing data, skips broken samples in training and refuses them in testing.

    Takes the arguments of ``mmaction.datasets.RawframeDataset``, of :class:`~dynperceiver.data.BadSampleMixin` and of
    :class:`~dynperceiver.data.HeldOutPartMixin` (``part``, ``holdout``, ``split_seed``, ``group_pattern``). Clips of one folder of frames
    (``with_offset=True``) are a group without a pattern, too. Frames at URLs are left to the pipeline alone.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """Load the annotations.

        Raises:
            MissingFileError: If the annotation file or a data folder is missing.
            DatasetError: If a line of the annotation file is none.
        """
        self._require_data()
        rule = f'a folder of frames, {"its first frame, " * self.with_offset}the number of its frames and its class number'
        _check_lines(self.ann_file, lambda line: self._is_right(line.split()), f'{rule}, with blanks between them')
        return super().load_data_list()

    def _is_right(self, parts: list[str]) -> bool:
        num_numbers = 1 + self.with_offset
        return len(parts) > num_numbers and (self.multi_class or len(parts) <= num_numbers + 2) and _are_numbers(parts[1:])

    def sample_path(self, info: dict[str, Any]) -> str:
        """Return the folder of the frames."""
        return info['frame_dir']

    def split_name(self, info: dict[str, Any]) -> str:
        """Return the folder's path below the folder of the data, with the first frame where clips share folders."""
        name = super().split_name(info)
        return f'{name} from frame {info["offset"]}' if 'offset' in info else name

    def split_group(self, info: dict[str, Any]) -> str | None:
        """Return the folder where clips share folders, because neighbouring clips are nearly the same."""
        return super().split_name(info) if 'offset' in info else None

    def fault_before(self, info: dict[str, Any]) -> Fault | None:
        """Look for an annotation without frames, from which mmaction2 would sample what is not there or, on some machines, frame 1."""
        if info['total_frames'] <= 0:
            return Fault(info['frame_dir'], Reason.NO_FRAMES, f'the annotation says total_frames={info["total_frames"]}')
        return None

    def fault_after(self, info: dict[str, Any]) -> Fault | None:
        """Look for JPEG files that are cut off, which some versions of OpenCV fill up with grey without a word."""
        if self.is_remote(info['frame_dir']):
            return None
        suspects = (path for path in self._frame_paths(info) if jpeg_looks_cut(path))
        return next((fault for path in suspects if (fault := diagnose_frame(path))), None)

    def fault_of_failure(self, info: dict[str, Any]) -> Fault | None:
        """Look whether the folder is there and the frames that were asked for decode."""
        if self.is_remote(info['frame_dir']):
            return None
        return diagnose_raw_frames(info['frame_dir'], self._frame_paths(info), info['total_frames'])

    def _frame_paths(self, info: dict[str, Any]) -> list[str]:
        axes = ((),) if info['modality'] == 'RGB' else (('x',), ('y',))
        numbers = unique_ints(info['frame_inds']) if 'frame_inds' in info else []
        names = [info['filename_tmpl'].format(*axis, number + info.get('offset', 0)) for number in numbers for axis in axes]
        return [osp.join(info['frame_dir'], name) for name in names]


def _are_numbers(parts: list[str]) -> bool:
    return all(re.fullmatch(r'-?\d+', part) for part in parts)


def _check_lines(ann_file: str, is_right: Callable[[str], bool], rule: str) -> None:
    """Check the lines that mmaction2 would stumble over without saying which one it is."""
    lines = list_from_file(ann_file)
    wrong = [number for number, line in enumerate(lines, 1) if not is_right(line.strip())]
    if wrong:
        more = f' ({len(wrong)} such lines)' if len(wrong) > 1 else ''
        raise DatasetError(f'{ann_file}, line {wrong[0]}: {lines[wrong[0] - 1].strip()!r} must be {rule}{more}; correct the file')
