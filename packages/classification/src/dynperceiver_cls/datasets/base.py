"""What all data sets of labelled images share."""

from __future__ import annotations

import os
from collections import Counter
from io import BytesIO
from typing import Any

from mmengine.dataset import BaseDataset

from dynperceiver.data import BadSampleMixin, Fault, HeldOutPartMixin, Reason, diagnose_image, first_line, in_words
from dynperceiver_runtime import MissingFileError, UserError

from ..transforms import decode_image

__all__ = ['ImageDataset']


class ImageDataset(HeldOutPartMixin, BadSampleMixin, BaseDataset):
    """A data set of images, each with the number of its class.

    A subclass overrides :meth:`load_samples`. Broken images are skipped in training and refused in testing; see
    :class:`~dynperceiver.data.BadSampleMixin`. A part of every class can be held out from training; see
    :class:`~dynperceiver.data.HeldOutPartMixin`.

    A sample's info has ``img_path``, ``gt_label`` (absent for an unlabelled image), ``sample_idx``, where images do not come in files
    of their own, ``img_bytes``, the content of an image file, and where the annotation has groups, ``group``.

    Args:
        args: Passed on to MMEngine's ``BaseDataset``.
        kwargs: Passed on to ``BaseDataset``, :class:`~dynperceiver.data.HeldOutPartMixin` (``part``, ``holdout``, ``split_seed``,
            ``group_pattern``) and :class:`~dynperceiver.data.BadSampleMixin` (``source``).

    Raises:
        MissingFileError: If files or folders are missing (with ``lazy_init=True``: when the data is first needed).
        UserError: If what is there is not as the arguments say.
    """

    def load_samples(self) -> list[dict[str, Any]]:
        """Find the samples, and put the classes' names into ``self._metainfo['classes']``.

        Returns:
            The info of every sample.
        """
        raise NotImplementedError

    # What BaseDataset calls.

    def load_data_list(self) -> list[dict[str, Any]]:
        """Check that the data is there, and find the samples."""
        self._require_data()
        # Where there is no list of the samples, messages name the folder.
        self.ann_file = self.ann_file or self.data_prefix.get('img_path', '').rstrip('/')
        return self.load_samples()

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the class of a sample in a list, for MMEngine's ``ClassBalancedDataset``."""
        return [self.get_data_info(idx)['gt_label']]

    # What BadSampleMixin calls.

    def sample_path(self, info: dict[str, Any]) -> str:
        """Return the path of the image."""
        return info['img_path']

    def fault_of_failure(self, info: dict[str, Any]) -> Fault | None:
        """Look whether the image decodes completely."""
        record = self.get_data_info(info['sample_idx'])  # as it was before the pipeline changed it
        if 'img_bytes' not in record:
            return None if self.is_remote(record['img_path']) else diagnose_image(record['img_path'], decode_image)
        if not record['img_bytes']:
            return Fault(record['img_path'], Reason.EMPTY)
        try:
            decode_image(BytesIO(record['img_bytes']))
        except Exception as error:  # decoders raise errors of many types
            reason = Reason.TRUNCATED if 'truncated' in str(error).lower() else Reason.UNDECODABLE
            return Fault(record['img_path'], reason, first_line(error))
        return None

    # For subclasses.

    def given_classes(self) -> tuple[str, ...] | None:
        """Return ``metainfo['classes']``, or None if it was not given.

        Raises:
            MissingFileError: If it is the name of a class list file that is missing.
            UserError: If it is not a list of different names.
        """
        classes = self._metainfo.get('classes')
        if classes is None:
            return None
        if isinstance(classes, str):
            raise MissingFileError(
                f"metainfo['classes'] is {classes!r}, but there is no such file (relative paths count from {os.getcwd()}); give a text "
                "file with a class per line, or the names themselves: metainfo=dict(classes=('cat', 'dog'))."
            )
        names = tuple(classes)
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if not names or repeated or not all(isinstance(name, str) and name.strip() for name in names):
            raise UserError(
                "metainfo['classes'] must be different names, but "
                + (f'repeats {in_words(list(map(repr, repeated)))}' if repeated else f'is {in_words(list(map(repr, names))) or "empty"}')
                + "; write metainfo=dict(classes=('cat', 'dog')), or name a text file with a class per line."
            )
        return names

    def missing_data(self, kind: str, path: str) -> FileNotFoundError:
        """Make the error that a file or folder is missing.

        Args:
            kind: ``'file'`` or ``'folder'``.
            path: The missing one.
        """
        return MissingFileError(
            f'Data not found: {kind} {path} is missing; the data set comes from '
            f'{self.source or "a source that its config does not name"}.\n'
            f'Relative paths count from {os.getcwd()}. Put the data there, or set data_root, data_prefix and ann_file in the config.'
        )

    def _require_data(self) -> None:
        if self.ann_file and not self.is_remote(self.ann_file) and not os.path.isfile(self.ann_file):
            raise self.missing_data('file', self.ann_file)
        for prefix in self.data_prefix.values():
            if prefix and not self.is_remote(prefix) and not os.path.isdir(prefix):
                raise self.missing_data('folder', prefix)
