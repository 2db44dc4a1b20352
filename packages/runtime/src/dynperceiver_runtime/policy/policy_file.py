"""Policies as JSON files, what is recorded about them, and fingerprints of what they were made from.

The file's fields are those of the policy, besides ``format`` and ``version``; numbers are exact, and ``NaN`` and ``Infinity`` are refused.
In ``log_odds``, ``null`` stands for a threshold that all reach, or none. Version 1 has no ``log_odds``: it decides by float32 scores.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileError, MissingFileError, UserError
from ..files import write_json

__all__ = ['PolicyError', 'PolicyRecord', 'fingerprint_of_arrays', 'read_policy_file', 'write_policy_file']

FORMAT = 'dynperceiver exit policy'
FIELDS = {1: ('score', 'thresholds', 'temperature', 'record'), 2: ('score', 'thresholds', 'log_odds', 'temperature', 'record')}
VERSION_OF_SCALE = {'probability': 1, 'log_odds': 2}
OLD_NAMES = {'exit_shares': 'exit_fractions'}  # of the figures in a record, in files of version 1
REMEDY = 'make the file anew with tools/calibrate.py'


class PolicyError(UserError):
    """A policy, or a policy's file, that cannot be used; the message says what was expected and what to try."""


def _plain(value: Any, name: str) -> Any:
    """The value as JSON gives it back: lists, dicts with names, strings, finite numbers, booleans and None."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        raise PolicyError(f'the record of the policy has {name} of more than 308 digits, which no float holds; {REMEDY}')
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise PolicyError(f'the record of the policy has {name}={value}; record finite numbers alone')
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(entry, f'{name}[{key!r}]') for key, entry in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(entry, name) for entry in value]
    raise PolicyError(
        f'the record of the policy has {name} of type {type(value).__name__}, which JSON has not; record numbers, strings, lists and dicts'
    )


@dataclass(frozen=True)
class PolicyRecord:
    """What a policy was made from and what it may be expected to do.

    Attributes:
        checkpoint: Fingerprint of the weights (see :func:`fingerprint_of_arrays`), or ``None``.
        calibration_set: Fingerprint of the held-out samples, or ``None``.
        num_samples: Number of held-out samples, or ``None``.
        solved_for: The goal, such as ``{'budget_gflops': 0.8}``.
        cost_gflops: Cost of one sample that leaves at the exit, per exit, in GFLOPs (1 MAC = 1 FLOP), or ``None``.
        cost_ms: The same in milliseconds, or ``None``.
        machine: Where the milliseconds were taken, or ``None``.
        expected: Figures on the held-out samples: ``accuracy``, ``full_accuracy`` (of the full network), ``exit_fractions``, and
            ``mean_gflops`` and ``mean_ms`` where the costs are known.

    Raises:
        PolicyError: If a value is of another type, or not finite.
    """

    checkpoint: str | None = None
    calibration_set: str | None = None
    num_samples: int | None = None
    solved_for: dict[str, Any] = field(default_factory=dict)
    cost_gflops: tuple[float, ...] | None = None
    cost_ms: tuple[float, ...] | None = None
    machine: str | None = None
    expected: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ('checkpoint', 'calibration_set', 'machine'):
            self._check(name, 'a string or null', lambda value: value is None or isinstance(value, str))
        self._check('num_samples', 'a whole number or null', lambda value: value is None or (_is_number(value) and isinstance(value, int)))
        for name in ('solved_for', 'expected'):
            self._check(name, 'an object with names', lambda value: isinstance(value, Mapping))
            object.__setattr__(self, name, _plain(getattr(self, name), name))
        object.__setattr__(self, 'expected', {OLD_NAMES.get(name, name): value for name, value in self.expected.items()})
        for name in ('cost_gflops', 'cost_ms'):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _plain(getattr(self, name), name))
                self._check(name, 'a list of numbers or null', lambda costs: isinstance(costs, list) and all(map(_is_number, costs)))
                object.__setattr__(self, name, tuple(map(float, getattr(self, name))))

    def _check(self, name: str, rule: str, holds: Any) -> None:
        value = getattr(self, name)
        if not holds(value):
            raise PolicyError(f'the record of the policy has {name}={value!r}, where {rule} belongs; {REMEDY}')


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refuse_constant(constant: str) -> float:
    raise ValueError(f'it holds {constant}, which is no number of JSON')


def write_policy_file(path: str | os.PathLike[str], fields_: Mapping[str, Any], record: PolicyRecord | None) -> None:
    """Write a policy, whole or not at all; a file of that name is replaced.

    Args:
        path: The file; its folder exists.
        fields_: The policy's fields without its record.
        record: The record.

    Raises:
        MissingFileError: If the folder is missing.
        PolicyError: If the file cannot be written.
    """
    version = VERSION_OF_SCALE[fields_['scale']]
    content = {'format': FORMAT, 'version': version, **{name: fields_[name] for name in FIELDS[version] if name != 'record'}}
    content['record'] = None if record is None else asdict(record)
    if version == 1 and record is not None:  # for the programs that wrote such files
        new_names = {new: old for old, new in OLD_NAMES.items()}
        content['record']['expected'] = {new_names.get(name, name): value for name, value in record.expected.items()}
    elif content.get('log_odds') is not None:
        content['log_odds'] = [value if math.isfinite(value) else None for value in content['log_odds']]
    try:
        write_json(path, content, 'policy', allow_nan=False)
    except MissingFileError:
        raise
    except FileError as error:
        raise PolicyError(str(error)) from error


def read_policy_file(path: str | os.PathLike[str]) -> tuple[dict[str, Any], PolicyRecord | None]:
    """Read what :func:`write_policy_file` wrote; the types of the policy's own fields are checked, their values are not.

    Returns:
        The policy's fields without its record, and the record.

    Raises:
        PolicyError: If the file is missing, or is no policy, or one of a version that is not known.
    """
    try:
        content = json.loads(Path(path).read_text(encoding='utf-8'), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise PolicyError(f'policy {path} is missing; check the path, or make it with tools/calibrate.py') from None
    except OSError as error:
        raise PolicyError(f'policy {path} cannot be read ({error.strerror}); check the path and who may read it') from error
    except (ValueError, RecursionError) as error:
        raise PolicyError(f'{path} is not the JSON of a policy ({error}); {REMEDY}') from error
    if not isinstance(content, dict) or content.get('format') != FORMAT:
        raise PolicyError(f'{path} is no policy: "format" must be "{FORMAT}"; pass a file that tools/calibrate.py wrote')
    version = content.get('version')
    if not isinstance(version, int) or isinstance(version, bool) or version not in FIELDS:
        raise PolicyError(
            f'{path} is a policy of version {version!r}, and this package reads versions {" and ".join(map(str, FIELDS))}; update this '
            f'package if the file is newer, or {REMEDY}'
        )
    _check_names(path, content, ('format', 'version', *FIELDS[version]), '')
    if not isinstance(content['score'], str):
        raise PolicyError(f'{path}: "score" is {content["score"]!r}, where a name belongs; {REMEDY}')
    for name in ('thresholds', 'temperature'):
        if not isinstance(content[name], list) or not all(map(_is_number, content[name])):
            raise PolicyError(f'{path}: "{name}" is {content[name]!r}, where a list of numbers belongs; {REMEDY}')
    policy = {name: content[name] for name in FIELDS[version] if name != 'record'}
    if version == 1:
        policy['scale'] = 'probability'
    else:
        policy['log_odds'] = _read_log_odds(path, content['log_odds'], content['thresholds'])
    return policy, _read_record(path, content['record'])


def _read_log_odds(path: str | os.PathLike[str], values: Any, thresholds: list[float]) -> list[float] | None:
    if values is None:
        return None
    if not isinstance(values, list) or not all(value is None or _is_number(value) for value in values) or len(values) != len(thresholds):
        raise PolicyError(
            f'{path}: "log_odds" is {values!r}, where null or a list of a number or null for each of the {len(thresholds)} thresholds '
            f'belongs; {REMEDY}'
        )
    ends = [math.inf if threshold > 1 else -math.inf for threshold in thresholds]
    return [end if value is None else value for value, end in zip(values, ends, strict=True)]


def _read_record(path: str | os.PathLike[str], content: Any) -> PolicyRecord | None:
    if content is None:
        return None
    if not isinstance(content, dict):
        raise PolicyError(f'{path}: "record" is {content!r}, where an object or null belongs; {REMEDY}')
    _check_names(path, content, [entry.name for entry in fields(PolicyRecord)], ' of the record')
    try:
        return PolicyRecord(**content)
    except PolicyError as error:
        raise PolicyError(f'{path}: {error}') from error


def _check_names(path: str | os.PathLike[str], content: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    names = list(names)
    missing, unknown = [name for name in names if name not in content], [name for name in content if name not in names]
    if missing or unknown:
        found = [f'{", ".join(missing)} missing'] * bool(missing) + [f'{", ".join(unknown)} unknown'] * bool(unknown)
        raise PolicyError(f'{path}: fields{where}: {"; ".join(found)}; expected are exactly {", ".join(names)}; {REMEDY}')


def fingerprint_of_arrays(items: Iterable[tuple[str, np.ndarray]]) -> str:
    """Fingerprint of named arrays: of their names, types, shapes and contents, whatever the order they come in.

    Args:
        items: Names and arrays, such as a state dict's.

    Returns:
        ``'sha256:'`` and 64 hexadecimal digits.

    Raises:
        ValueError: If there is no array, a name comes twice, or an array holds Python objects.
    """
    ordered = sorted(((name, np.asarray(array)) for name, array in items), key=lambda item: item[0])
    if not ordered:
        raise ValueError('0 arrays have no fingerprint; pass one or more pairs of a name and an array')
    digest, previous = hashlib.sha256(), None
    for name, array in ordered:
        if name == previous:
            raise ValueError(f'the name {name!r} comes twice; give every array a name of its own')
        if array.dtype.hasobject:
            raise ValueError(f'array {name!r} holds Python objects, whose bytes mean nothing; pass numbers')
        previous, array = name, array.astype(array.dtype.newbyteorder('<'), order='C', copy=False)
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode() + b'\n')
        if array.size:
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return f'sha256:{digest.hexdigest()}'
