"""What an exported folder says of itself, in ``manifest.json``; the standard library only.

The file's fields are those of :class:`Manifest`, besides ``format`` and ``version``.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .base import EngineError

__all__ = [
    'FORMAT', 'MANIFEST', 'POLICY', 'REMEDY', 'VERSION',
    'GraphEntry', 'Manifest', 'PolicyEntry', 'file_sha256', 'find_policy', 'is_count', 'read_manifest',
]  # fmt: skip

FORMAT = 'dynperceiver exported segments'
VERSION = 1
MANIFEST = 'manifest.json'
POLICY = 'policy.json'
REMEDY = 'export the checkpoint anew with tools/export.py'


@dataclass(frozen=True)
class GraphEntry:
    """A segment in an exported folder.

    The graph has the output ``logits`` besides those that are entries of the next state.

    Attributes:
        file: Name of the graph's file in the folder.
        sha256: Hexadecimal SHA-256 of the file.
        inputs: The graph's inputs, which are entries of the state: ``images`` before segment 1, later ``feature``, ``latent`` and
            ``previous_logits``, or whatever the manifest calls them.
        updates: Entries of the next state, and the graph's output that each is. The output ``logits`` may be one of them.
        keeps: Entries of the next state that stay what they were.
    """

    file: str
    sha256: str
    inputs: tuple[str, ...]
    updates: dict[str, str]
    keeps: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """The graph's outputs, ``logits`` first."""
        return ('logits', *(name for name in self.updates.values() if name != 'logits'))


@dataclass(frozen=True)
class PolicyEntry:
    """The policy in an exported folder.

    Attributes:
        file: Name of the policy's file in the folder, :data:`POLICY`.
        sha256: Hexadecimal SHA-256 of the file.
    """

    file: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What an exported folder says of itself.

    Attributes:
        fingerprint: Fingerprint of the weights, which policies are bound to.
        image_size: Height and width of the images in pixels.
        num_frames: Frames per sample, 1 for images.
        num_classes: Classes of every exit.
        segments: The graphs in their order.
        cost_gflops: Cost of one sample that leaves at the exit, per exit, in GFLOPs (1 MAC = 1 FLOP).
        producer: Versions of what wrote the graphs, by name.
        preprocessing: What pixels go through before, such as ``mean`` and ``std``; empty where it is not known.
        class_names: Names of the classes, or ``None``.
        policy: The policy that was exported with the graphs, or ``None``.
    """

    fingerprint: str
    image_size: tuple[int, int]
    num_frames: int
    num_classes: int
    segments: tuple[GraphEntry, ...]
    cost_gflops: tuple[float, ...]
    producer: dict[str, str]
    preprocessing: dict[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    policy: PolicyEntry | None = None

    @property
    def num_exits(self) -> int:
        """Segments, each with its exit."""
        return len(self.segments)


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_count(value: Any) -> bool:
    """Whether this is a whole number of 1 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


def _is_file_name(value: Any) -> bool:
    return isinstance(value, str) and value == os.path.basename(value) and '\\' not in value and value.endswith('.onnx')


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) and text for text in value.values())


RULES: dict[str, tuple[Any, str]] = {
    'fingerprint': (lambda value: isinstance(value, str) and bool(value), 'a text'),
    'image_size': (lambda value: isinstance(value, list) and len(value) == 2 and all(map(is_count, value)), 'height and width in pixels'),
    'num_frames': (is_count, 'a positive whole number'),
    'num_classes': (is_count, 'a positive whole number'),
    'segments': (lambda value: isinstance(value, list) and bool(value), 'a list with an object per segment'),
    'cost_gflops': (
        lambda value: isinstance(value, list) and all(isinstance(cost, int | float) and not isinstance(cost, bool) for cost in value),
        'a list of numbers',
    ),
    'producer': (_are_texts, 'an object of texts'),
    'preprocessing': (lambda value: isinstance(value, dict), 'an object'),
    'class_names': (lambda value: value is None or _are_names(value), 'a list of names, or null'),
    'policy': (lambda value: value is None or isinstance(value, dict), 'an object, or null'),
}
GRAPH_RULES: dict[str, tuple[Any, str]] = {
    'file': (_is_file_name, 'the name of an .onnx file in the folder'),
    'sha256': (_is_sha256, '64 hexadecimal digits'),
    'inputs': (lambda value: _are_names(value) and bool(value), 'a list of names'),
    'updates': (_are_texts, 'an object of names'),
    'keeps': (_are_names, 'a list of names'),
}
POLICY_RULES: dict[str, tuple[Any, str]] = {
    'file': (lambda value: value == POLICY, f'"{POLICY}"'),
    'sha256': (_is_sha256, '64 hexadecimal digits'),
}


def _checked(path: Path, content: Any, rules: dict[str, tuple[Any, str]], where: str) -> dict[str, Any]:
    """The fields of an object, all there and of their types, lists as tuples."""
    if not isinstance(content, dict) or set(content) != set(rules):
        names = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise EngineError(f'{path}: {where} has {names}, where exactly {sorted(rules)} belong; {REMEDY}')
    for name, (holds, rule) in rules.items():
        if not holds(content[name]):
            raise EngineError(f'{path}: "{name}" of {where} is {content[name]!r}, where {rule} belongs; {REMEDY}')
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Read the manifest of an exported folder; the graphs and the policy themselves are not looked at.

    Raises:
        EngineError: If the folder or its manifest is missing, damaged, or of another format or version.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        reason = 'there is no such folder' if not Path(folder).is_dir() else f'it has no {MANIFEST}'
        raise EngineError(f'{folder} is no exported network: {reason}; check the path, or write it with tools/export.py')
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(f'{path} cannot be read as JSON ({error}); {REMEDY}') from error
    if not isinstance(content, dict) or content.pop('format', None) != FORMAT:
        raise EngineError(f'{path} is no manifest: "format" must be "{FORMAT}"; pass a folder that tools/export.py wrote')
    version = content.pop('version', None)
    if version != VERSION:
        raise EngineError(
            f'{path} is of version {version!r}, and this package reads version {VERSION}; update the older of the two, or {REMEDY}'
        )
    values = _checked(path, content, RULES, 'the manifest')
    graphs = [_checked(path, graph, GRAPH_RULES, f'segment {number}') for number, graph in enumerate(values['segments'], 1)]
    if values['policy'] is not None:
        values['policy'] = PolicyEntry(**_checked(path, values['policy'], POLICY_RULES, 'the policy'))
    manifest = Manifest(**{**values, 'segments': tuple(GraphEntry(**graph) for graph in graphs)})
    _check_flow(path, manifest)
    return manifest


def find_policy(folder: Path, manifest: Manifest) -> Path | None:
    """File of the policy that was exported with the graphs, if there was one.

    Raises:
        EngineError: If the folder has lost it, or has another one than was exported.
    """
    path = folder / POLICY
    remedy = 'pass policy=, or export the checkpoint anew with tools/export.py --policy'
    if manifest.policy is None:
        if path.exists():
            raise EngineError(f'{path} was not exported with the graphs: {MANIFEST} lists no policy; {remedy}, or remove the file')
        return None
    if not path.is_file():
        raise EngineError(f'{path} is missing, which {MANIFEST} lists; copy the whole folder, or {remedy}')
    if file_sha256(path) != manifest.policy.sha256:
        raise EngineError(
            f'{path} is not the policy that was exported: its SHA-256 is not that in {MANIFEST}; copy the folder again, or {remedy}'
        )
    return path


def _check_flow(path: Path, manifest: Manifest) -> None:
    """Every segment finds in the state what it reads and keeps, and the lists go together."""
    entries = {'images'}
    for number, graph in enumerate(manifest.segments, 1):
        missing = sorted({*graph.inputs, *graph.keeps} - entries)
        if missing:
            raise EngineError(f'{path}: segment {number} needs {", ".join(missing)}, which no segment before it gives; {REMEDY}')
        entries = {*graph.updates, *graph.keeps}
    if len(manifest.cost_gflops) != manifest.num_exits:
        raise EngineError(f'{path} has {len(manifest.cost_gflops)} cost_gflops for {manifest.num_exits} segments; {REMEDY}')
    if manifest.class_names is not None and len(manifest.class_names) != manifest.num_classes:
        raise EngineError(f'{path} has {len(manifest.class_names)} class_names for {manifest.num_classes} classes; {REMEDY}')


assert set(RULES) == {entry.name for entry in fields(Manifest)}
assert set(GRAPH_RULES) == {entry.name for entry in fields(GraphEntry)}
assert set(POLICY_RULES) == {entry.name for entry in fields(PolicyEntry)}
