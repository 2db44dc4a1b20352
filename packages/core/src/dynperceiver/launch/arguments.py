"""Arguments that the command lines of several tools share, each described, checked and understood in one way."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

from dynperceiver_runtime import ExistingFileError, FileError, MissingFileError, UsageError
from dynperceiver_runtime.command_line import DEBUG_FLAG, DEBUG_HELP

__all__ = ['UsageError', 'add_shape', 'check_at_least', 'check_output', 'image_size', 'tool_parser']

DEFAULT_SIZE_PX = 224
CFG_OPTIONS_HELP = (
    'settings of the config to override, as key=value: --cfg-options optim_wrapper.optimizer.lr=0.02 model.backbone.num_latents=64. '
    'Lists: key="[a,b]" or key=a,b; nested: key="[(a,b),(c,d)]" (with the quotes, without blanks)'
)


class _CfgOptions(DictAction):
    """MMEngine's action, whose complaints about what was typed become messages for people."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: str | None = None) -> None:
        for pair in values:
            try:
                super().__call__(parser, namespace, [pair], option_string)
            except (ValueError, AssertionError) as error:
                raise UsageError(
                    f'--cfg-options {pair}: write KEY=VALUE without blanks and with matching brackets, for example '
                    'optim_wrapper.optimizer.lr=0.02'
                ) from error


class _Shape(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if len(values) > 2 or min(values) < 1:
            raise UsageError(f'--shape {" ".join(map(str, values))}: give one number of pixels for a square, or height and width')
        setattr(namespace, self.dest, values)


def tool_parser(description: str | None, config: str | None = None, cfg_options: bool | None = None) -> argparse.ArgumentParser:
    """A parser with the arguments that all tools have in common.

    Args:
        description: What the tool does; its line breaks stay.
        config: What to say of the positional argument ``config``; ``None`` for a tool without one.
        cfg_options: Whether there is ``--cfg-options``; by default where there is a config.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if config is not None:
        parser.add_argument('config', help=config)
    common = parser.add_argument_group('options of all tools')
    if cfg_options if cfg_options is not None else config is not None:
        common.add_argument('--cfg-options', nargs='+', action=_CfgOptions, metavar='KEY=VALUE', help=CFG_OPTIONS_HELP)
    common.add_argument(DEBUG_FLAG, action='store_true', help=DEBUG_HELP)
    return parser


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Add ``--shape``: the height and width of the input, or one number for a square; see :func:`image_size`."""
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        action=_Shape,
        metavar='PIXELS',
        help=f'height and width of the input, or one number for a square (default: input_shape of the config, or {DEFAULT_SIZE_PX})',
    )


def image_size(shape: Sequence[int] | None, cfg: Config) -> tuple[int, int]:
    """Height and width in pixels: those of ``--shape``, else ``input_shape`` of the config, else 224 by 224.

    Args:
        shape: What ``--shape`` gave.
        cfg: The config.
    """
    numbers = list(shape or cfg.get('input_shape') or (DEFAULT_SIZE_PX,))
    return numbers[0], numbers[-1]


def check_at_least(flag: str, value: int, least: int) -> None:
    """Refuse a number that is too small.

    Raises:
        UsageError: If it is.
    """
    if value < least:
        raise UsageError(f'{flag} {value}: pass {least} or more')


def check_output(flag: str, path: str | Path, overwrite: bool = True) -> None:
    """Say before a long computation that a file could not be written after it.

    Args:
        flag: The option that names the file.
        path: The file.
        overwrite: Whether a file of that name may be replaced.

    Raises:
        MissingFileError: If its folder is missing.
        ExistingFileError: If it exists and must not be replaced, or is no plain file.
        FileError: If nothing can be written to its folder.
    """
    path = Path(path)
    folder = path.absolute().parent
    if not folder.is_dir():
        raise MissingFileError(f'{flag} {path}: its folder is missing; make it first')
    if path.exists() and not path.is_file():
        raise ExistingFileError(f'{flag} {path} is {"a folder" if path.is_dir() else "no plain file"}; pass the name of a file')
    if path.exists() and not overwrite:
        raise ExistingFileError(f'{flag} {path} exists already; choose another name or pass --overwrite')
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise FileError(f'{flag} {path}: nothing can be written to its folder ({error.strerror}); choose another') from error
