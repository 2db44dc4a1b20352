"""Segments as ONNX graphs in ONNX Runtime, from a folder that ``tools/export.py`` wrote.

NumPy, ONNX Runtime and the standard library only: a machine that serves has no PyTorch.

Shape suffixes: B rows, S samples, T frames, K classes; the maps in a state are (B, H, W, C).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .base import EngineError, check_images
from .manifest import MANIFEST, REMEDY, GraphEntry, Manifest, find_policy, is_count, read_manifest
from .sessions import Sessions, import_onnxruntime, make_session, share_pool

__all__ = ['OnnxRuntimeEngine', 'OnnxState']

PIXELS_AT_ONCE = 16 * 224 * 224
"""Of the images that a graph takes at once: larger batches run in parts, which take less memory, and no more time."""


@dataclass(frozen=True)
class OnnxState:
    """What is handed from one segment's graph to the next.

    Attributes:
        arrays: Arrays by entry, with ``num_frames`` rows per sample.
        num_samples: Samples.
    """

    arrays: dict[str, np.ndarray]
    num_samples: int


def _default_num_threads() -> int:
    """``OMP_NUM_THREADS`` where it is set, as for PyTorch, otherwise the processors that this process may use."""
    wanted = os.environ.get('OMP_NUM_THREADS', '').partition(',')[0].strip()
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


class OnnxRuntimeEngine:
    """Runs the graphs of an exported folder on the CPU.

    A graph is loaded when a sample first reaches its segment; all files are checked at once. The engine may be called from several
    threads. It may also be used in a forked process, which loads the graphs anew, and which may end in any way: see
    :func:`~dynperceiver_runtime.engines.sessions.import_onnxruntime`. Elsewhere than on Linux with glibc, a forked process must end by
    ``os._exit`` (as those of ``multiprocessing`` do), or be spawned: ONNX Runtime's own exit waits for threads that were not forked.

    Args:
        folder: What ``tools/export.py`` wrote.
        num_threads: Threads per graph; graphs run one after another, and a thread that waits sleeps while none runs. Default:
            ``OMP_NUM_THREADS``, or the processors that this process may use.
        shared_pool: One pool of threads for all graphs of the process, some percent faster; for programs that use ONNX Runtime for nothing
            else, see :func:`~dynperceiver_runtime.engines.sessions.share_pool`.

    Raises:
        EngineError: If the folder or one of its files is missing, damaged, or of another version; or the number is not positive; or
            ONNX Runtime is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str], num_threads: int | None = None, shared_pool: bool = False) -> None:
        self.folder: Path | None = Path(folder).resolve()
        self._graphs: Mapping[str, bytes] = {}
        self._set_up(read_manifest(self.folder), num_threads, shared_pool)

    @classmethod
    def from_graphs(
        cls, manifest: Manifest, graphs: Mapping[str, bytes], num_threads: int | None = None, shared_pool: bool = False
    ) -> OnnxRuntimeEngine:
        """An engine on graphs that are in memory and in no folder.

        Args:
            manifest: What the graphs are.
            graphs: Content of each file that the manifest lists, by its name.
            num_threads: See the class.
            shared_pool: See the class.

        Raises:
            EngineError: As for the class.
        """
        engine = cls.__new__(cls)
        engine.folder, engine._graphs = None, dict(graphs)
        engine._set_up(manifest, num_threads, shared_pool)
        return engine

    def _set_up(self, manifest: Manifest, num_threads: int | None, shared_pool: bool) -> None:
        if num_threads is not None and not is_count(num_threads):
            raise EngineError(f'num_threads={num_threads!r}: pass a whole number of 1 or more, or None for all processors')
        self.manifest = manifest
        self.num_threads = num_threads or _default_num_threads()
        import_onnxruntime()
        self.shared_pool = shared_pool
        if shared_pool:
            share_pool(self.num_threads)
        for graph in manifest.segments:
            self._read(graph)
        self._sessions = Sessions()

    def __reduce__(self) -> tuple[Any, ...]:
        if self.folder is None:
            return type(self).from_graphs, (self.manifest, self._graphs, self.num_threads, self.shared_pool)
        return type(self), (self.folder, self.num_threads, self.shared_pool)

    @property
    def stored_policy(self) -> Path | None:
        """File of the policy that came with the folder, if there is one; see :func:`.manifest.find_policy`."""
        return None if self.folder is None else find_policy(self.folder, self.manifest)

    @property
    def average_views(self) -> Any:
        """How the exported model averages the views of a video; ``None`` where that is not known."""
        return self.manifest.preprocessing.get('average_views')

    @property
    def num_exits(self) -> int:
        """Segments, each with its exit."""
        return self.manifest.num_exits

    @property
    def num_classes(self) -> int:
        """Classes of every exit."""
        return self.manifest.num_classes

    @property
    def num_frames(self) -> int:
        """Frames per sample, 1 for images."""
        return self.manifest.num_frames

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the weights, which policies are bound to."""
        return self.manifest.fingerprint

    @property
    def num_loaded(self) -> int:
        """Graphs that were loaded so far."""
        return len(self._sessions)

    def _path(self, graph: GraphEntry) -> Path:
        return Path(graph.file) if self.folder is None else self.folder / graph.file

    def _read(self, graph: GraphEntry) -> bytes:
        """A graph's file as it was exported; it is read when it is needed, and may have been exchanged since the folder was checked."""
        path = self._path(graph)
        try:
            content = self._graphs[graph.file] if self.folder is None else path.read_bytes()
        except (FileNotFoundError, KeyError):
            raise EngineError(f'{path} is missing, which {MANIFEST} lists; copy the whole folder, or {REMEDY}') from None
        if hashlib.sha256(content).hexdigest() != graph.sha256:
            raise EngineError(
                f'{path} is not the file that was exported: its SHA-256 is not that in {MANIFEST}; copy the folder again, or {REMEDY}. '
                'Where it was exported anew meanwhile, start this program again'
            )
        return content

    def _load(self, exit_index: int) -> Any:
        graph = self.manifest.segments[exit_index]
        path, content = self._path(graph), self._read(graph)
        try:
            session = make_session(content, self.num_threads, self.shared_pool)
        except Exception as error:
            raise EngineError(
                f'{path} cannot be loaded by ONNX Runtime {import_onnxruntime().__version__} ({" ".join(str(error).split())}); update '
                'onnxruntime, or export the checkpoint anew with tools/export.py and a smaller --opset'
            ) from error
        found = {one.name for one in session.get_inputs()}, {one.name for one in session.get_outputs()}
        if found != (set(graph.inputs), set(graph.outputs)):
            raise EngineError(f'{path} has the inputs and outputs {found}, and {MANIFEST} lists others; {REMEDY}')
        return session

    def start(self, images: Any) -> OnnxState:
        """The state before segment 1.

        Args:
            images: Images or frames, shape (S * num_frames, 3, H, W), or clips of shape (S, num_frames, 3, H, W), of a floating-point
                type, normalised; what NumPy takes as an array, tensors on the CPU included. Contiguous float32 arrays are not copied.

        Raises:
            EngineError: If this is no such array, or H and W are not those that were exported.
        """
        frames = self.num_frames
        try:
            array = np.asarray(images)
        except (TypeError, ValueError, RuntimeError) as error:
            raise EngineError(
                f'input of type {type(images).__name__} cannot be taken as a NumPy array ({error}); pass a NumPy array, or a tensor on the '
                'CPU without gradients'
            ) from error
        height, width = check_images(array.shape, frames)
        if (height, width) != self.manifest.image_size:
            raise EngineError(
                f'input of {height}x{width} pixels (height x width): these graphs were exported for '
                f'{"x".join(map(str, self.manifest.image_size))}; resize the images, or export for their size with '
                f'tools/export.py --shape {height} {width}'
            )
        if array.dtype.kind != 'f':
            preprocessing = self.manifest.preprocessing
            known = ', '.join(f'{name}={preprocessing[name]}' for name in ('mean', 'std') if name in preprocessing)
            raise EngineError(
                f'input of type {array.dtype}: pass normalised images as floating-point numbers, (pixels - mean) / std per channel'
                + (f' with {known}' if known else ' as in training')
            )
        array = array if array.ndim == 4 else array.reshape(-1, 3, height, width)
        return OnnxState({'images': np.ascontiguousarray(array, np.float32)}, len(array) // frames)

    def num_samples(self, state: OnnxState) -> int:
        """Samples in a state."""
        return state.num_samples

    def run(self, exit_index: int, state: OnnxState) -> tuple[np.ndarray, OnnxState]:
        """Run segment ``exit_index + 1``.

        Returns:
            Logits of its exit as float32 (S, K), and the state for the next segment. They may share memory: write into neither.

        Raises:
            EngineError: If the state is not that of the segment before, or the graph cannot be loaded.
        """
        graph = self.manifest.segments[exit_index]
        if not state.num_samples:
            return np.empty((0, self.num_classes), np.float32), OnnxState({}, 0)
        missing = [name for name in (*graph.inputs, *graph.keeps) if name not in state.arrays]
        if missing:
            raise EngineError(
                f'segment {exit_index + 1} got a state without {", ".join(missing)}; pass it the state that segment {exit_index} returned'
                if exit_index
                else f'segment 1 got a state without {", ".join(missing)}; pass it the state that start() returned'
            )
        rows, count = self._samples_at_once(), state.num_samples
        parts = [self._run_part(graph, exit_index, self.narrow(state, i, min(i + rows, count))) for i in range(0, count, rows)]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([logits_SK for logits_SK, _ in parts]), self.concat([part for _, part in parts])

    def _samples_at_once(self) -> int:
        height, width = self.manifest.image_size
        return max(1, PIXELS_AT_ONCE // (height * width * self.num_frames))

    def _run_part(self, graph: GraphEntry, exit_index: int, state: OnnxState) -> tuple[np.ndarray, OnnxState]:
        results = self._sessions.get(exit_index, self._load).run(list(graph.outputs), {name: state.arrays[name] for name in graph.inputs})
        outputs = dict(zip(graph.outputs, results, strict=True))
        arrays = {name: outputs[output] for name, output in graph.updates.items()}
        arrays.update((name, state.arrays[name]) for name in graph.keeps)
        return outputs['logits'], OnnxState(arrays, state.num_samples)

    def select(self, state: OnnxState, index_S: np.ndarray) -> OnnxState:
        """The state of some samples only, numbers of int64, in that order; a clip stays whole."""
        rows_B = np.asarray(index_S, np.int64)
        if self.num_frames > 1:
            rows_B = (rows_B[:, None] * self.num_frames + np.arange(self.num_frames)).ravel()
        return OnnxState({name: array[rows_B] for name, array in state.arrays.items()}, len(index_S))

    def narrow(self, state: OnnxState, start: int, stop: int) -> OnnxState:
        """The state of the consecutive samples from ``start`` to before ``stop``, without copying."""
        rows_B = slice(start * self.num_frames, stop * self.num_frames)
        return OnnxState({name: array[rows_B] for name, array in state.arrays.items()}, stop - start)

    def own(self, state: OnnxState) -> OnnxState:
        """The state in memory of its own, whatever its maker does with his."""
        return OnnxState({name: array.copy() for name, array in state.arrays.items()}, state.num_samples)

    def concat(self, states: Sequence[OnnxState]) -> OnnxState:
        """One state of the samples of several, all after the same segment.

        Raises:
            EngineError: If they are not after the same segment.
        """
        states = [state for state in states if state.num_samples] or list(states[:1])
        names = set(states[0].arrays)
        if any(set(state.arrays) != names for state in states):
            found = [sorted(state.arrays) for state in states]
            raise EngineError(f'states with {found} do not belong together; pass those that one segment returned')
        arrays = {name: np.concatenate([state.arrays[name] for state in states]) for name in names}
        return OnnxState(arrays, sum(state.num_samples for state in states))

    def wrap(self, array: np.ndarray) -> np.ndarray:
        """A result as this backend's users get it."""
        return array
