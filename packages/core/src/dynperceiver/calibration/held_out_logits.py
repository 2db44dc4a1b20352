"""What the whole network answers to held-out samples: computed once, kept in a file, and solved on for as many goals as one likes.

Shape suffixes: E exits, S samples, K classes, B images, C channels, H/W pixels.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dynperceiver_runtime import MissingFileError, UserError
from dynperceiver_runtime.files import open_atomically

from ..analysis import count_exit_costs
from ..deployment.runner import DynamicRunner, average_views_of
from ..models import DynPerceiver, network_with_exits

__all__ = ['HeldOutLogits', 'SampleForm', 'batch_images', 'collect_logits', 'sample_form']


class SampleForm(NamedTuple):
    """What a sample looks like to the network.

    Attributes:
        height: Height in pixels.
        width: Width in pixels.
        views: Clips of a video, which leave together; 1 for images.
        average_views: How they are averaged, ``'prob'`` or ``'score'``; see :func:`~dynperceiver_runtime.views.average_logits`. For one
            view, of which there is no average, always ``'score'``.
    """

    height: int
    width: int
    views: int
    average_views: str = 'score'

    def cost_gflops(self, network: DynPerceiver) -> tuple[float, ...]:
        """GFLOPs of a sample that leaves at each exit (1 MAC = 1 FLOP)."""
        return tuple(self.views * cost.cost_gmacs for cost in count_exit_costs(network, self.height, self.width))


def sample_form(model: nn.Module, shape: Sequence[int]) -> SampleForm:
    """The form of samples that a pipeline gives.

    Args:
        model: The network, or the classifier or recognizer that holds it.
        shape: Shape of the ``inputs`` of a sample: (3, H, W), or (frames of all views, 3, H, W) of a video.

    Raises:
        UserError: If a video's frames are no whole number of clips.
    """
    if len(shape) == 3:
        return SampleForm(int(shape[-2]), int(shape[-1]), 1)
    num_frames = network_with_exits(model).num_frames
    if shape[0] % num_frames:
        raise UserError(
            f'the pipeline gives {shape[0]} frames per video, and a clip of the model has num_frames={num_frames}: a video is a '
            'whole number of clips; sample that many (SampleFrames: clip_len * num_clips)'
        )
    views = int(shape[0]) // num_frames
    return SampleForm(int(shape[-2]), int(shape[-1]), views, average_views_of(model) if views > 1 else 'score')


@dataclass(frozen=True, eq=False)
class HeldOutLogits:
    """Logits of all exits for held-out samples, with what they are of.

    Attributes:
        logits_ESK: Logits, float32, shape (exits, samples, classes).
        labels_S: Class numbers, int64, shape (samples,).
        form: Size and views of a sample, and how views were averaged.
        checkpoint: Fingerprint of the weights.
        calibration_set: Fingerprint of the samples.
        backend: Where the logits come from.
    """

    logits_ESK: np.ndarray
    labels_S: np.ndarray
    form: SampleForm
    checkpoint: str
    calibration_set: str
    backend: str

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write them to an npz file, whole or not at all; a file of that name is replaced."""
        arrays: dict[str, Any] = {entry.name: np.asarray(getattr(self, entry.name)) for entry in fields(self) if entry.name != 'form'}
        arrays['form'], arrays['average_views'] = np.asarray(self.form[:3]), np.asarray(self.form.average_views)
        with open_atomically(path, what='file of logits') as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str], checkpoint: str, calibration_set: str, form: SampleForm) -> HeldOutLogits:
        """Read what :meth:`save` wrote.

        Args:
            path: The npz file.
            checkpoint: Fingerprint of the weights that it must be of.
            calibration_set: Fingerprint of the samples that it must be of.
            form: Form that they must have.

        Raises:
            MissingFileError: If the file is missing.
            UserError: If it is something else, or of other weights or samples.
        """
        remedy = 'make it anew with tools/calibrate.py --save-logits'
        if not Path(path).is_file():
            raise MissingFileError(f'logits {path} are missing; check the path, or {remedy}')
        try:
            with np.load(path, allow_pickle=False) as arrays:
                found = {entry.name: arrays[entry.name] for entry in fields(cls)}
                average_views = str(arrays['average_views']) if 'average_views' in arrays else 'score'  # so were they all, once
            height, width, views = found['form'].tolist()
            kept = SampleForm(height, width, views, average_views)
        except (zipfile.BadZipFile, EOFError, OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f'{path} is no file of logits ({type(error).__name__}: {error}); {remedy}') from error
        pairs = {
            'weights': (str(found['checkpoint']), checkpoint),
            'samples': (str(found['calibration_set']), calibration_set),
            'height, width and views': (kept[:3], form[:3]),
            'average of views': (kept.average_views, form.average_views),
        }
        for what, (there, wanted) in pairs.items():
            if there != wanted:
                raise UserError(f'{path} is of other {what} ({there}) than those of config and checkpoint ({wanted}); {remedy}')
        return cls(found['logits_ESK'], found['labels_S'], kept, checkpoint, calibration_set, str(found['backend']))


def batch_images(model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, np.ndarray]:
    """A batch of a loader as the runner takes it.

    Args:
        model: Classifier or recognizer, whose data preprocessor normalises.
        batch: What the loader gives: images, or per video the frames of its views.

    Returns:
        Images (B, 3, H, W), frames of a video one after another; and labels, shape (samples,).

    Raises:
        UserError: If a sample has no label.
    """
    preprocess: Any = model.data_preprocessor
    with torch.inference_mode():
        batch = preprocess(dict(batch), False)
    images = batch['inputs']
    labels_S = np.array([_label(sample) for sample in batch['data_samples']], np.int64)
    return images.flatten(0, 1) if images.dim() == 5 else images, labels_S


def _label(sample: Any) -> int:
    label = sample.get('gt_label')
    if label is None or (isinstance(label, Tensor | np.ndarray | Sequence) and len(label) != 1):
        raise UserError(f'{sample.get("img_path", "a held-out sample")} has no single class; policies are solved on labelled samples')
    return int(label[0] if isinstance(label, Sequence) else label)


def collect_logits(
    model: nn.Module,
    loader: Any,
    calibration_set: str,
    backend: str = 'torch',
    progress: Callable[[Iterable[Any]], Iterable[Any]] | None = None,
    **options: Any,
) -> HeldOutLogits:
    """Run the whole network over held-out samples.

    Args:
        model: Classifier or recognizer with the network and a data preprocessor.
        loader: Loader of the samples, in a fixed order.
        calibration_set: Fingerprint of the samples.
        backend: See :class:`~dynperceiver_runtime.runner.DynamicRunner`.
        progress: Goes through the loader's batches and shows how far it is.
        options: For the backend.

    Returns:
        Logits and labels in the loader's order.

    Raises:
        UserError: If there are no samples, or not as many as the data set has; samples differ in size or views; or one has no label.
    """
    model.eval()
    network = network_with_exits(model)
    num_samples, done = len(loader.dataset), 0
    labels_S, logits_ESK = np.empty(num_samples, np.int64), np.empty((0, 0, 0), np.float32)
    runner, form = None, None
    for batch in loader if progress is None else progress(loader):
        images_BCHW, label_S = batch_images(model, batch)
        shape = (len(images_BCHW) // len(label_S), *images_BCHW.shape[1:])
        batch_form = sample_form(model, shape if network.num_frames > 1 else shape[1:])
        if runner is None:
            form = batch_form
            runner = DynamicRunner(model, backend=backend, views=form.views, **options)
            logits_ESK = np.empty((runner.served.num_exits, num_samples, runner.served.num_classes), np.float32)
        if batch_form != form:
            raise UserError(
                f'held-out samples differ: {batch_form} comes after {form}; costs are counted for one form; let the pipeline end '
                'with a crop or resize to one size'
            )
        after = done + len(label_S)
        if after > num_samples:
            raise UserError(f'the loader gives more samples than the {num_samples} of its data set; let its sampler give each once')
        images = images_BCHW if backend == 'torch' else images_BCHW.cpu().numpy()
        logits_ESK[:, done:after], labels_S[done:after] = runner.full_logits(images), label_S
        done = after
    if runner is None or form is None or done != num_samples:
        raise UserError(f'the loader gives {done} of the {num_samples} held-out samples; let its sampler give each once, and drop none')
    return HeldOutLogits(logits_ESK, labels_S, form, runner.served.fingerprint, calibration_set, backend)
