"""Few groups of parameters instead of one per parameter."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from typing import Any

from mmengine.logging import MMLogger, print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ..registry import OPTIM_WRAPPER_CONSTRUCTORS

__all__ = ['GroupedOptimWrapperConstructor', 'merge_param_groups']


def _is_of_no_single_parameter(record: logging.LogRecord) -> bool:
    text = str(record.msg)
    return not text.startswith('paramwise_options') and not text.endswith('is skipped since its requires_grad=False')


def _hashable(value: Any) -> Hashable:
    return value if isinstance(value, Hashable) else repr(value)


def merge_param_groups(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join parameter groups whose settings are equal, in the order of their first parameters.

    Args:
        groups: Groups as an optimizer takes them, with ``params`` as a list.
    """
    merged: dict[Hashable, dict[str, Any]] = {}
    for group in groups:
        settings = {key: value for key, value in group.items() if key != 'params'}
        key = tuple(sorted((name, _hashable(value)) for name, value in settings.items()))
        merged.setdefault(key, dict(settings, params=[]))['params'].extend(group['params'])
    return list(merged.values())


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class GroupedOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's default constructor, whose ``paramwise_cfg`` makes one group per parameter, with equal groups joined.

    The numbers of a step are the same; with hundreds of groups an optimizer spends its time in Python, and can neither fuse its updates
    nor run them together. Instead of a line per parameter, the log gets one per group.
    """

    def add_params(
        self, params: list[dict[str, Any]], module: nn.Module, prefix: str = '', is_dcn_module: int | float | None = None
    ) -> None:
        """Collect the parameters of a module; see MMEngine."""
        if prefix:
            super().add_params(params, module, prefix, is_dcn_module)
            return
        logger = MMLogger.get_current_instance()
        # Not by logging.disable, after which MMEngine's loggers go on as they did: they remember what they are enabled for.
        logger.addFilter(_is_of_no_single_parameter)
        try:
            super().add_params(params, module, prefix, is_dcn_module)
        finally:
            logger.removeFilter(_is_of_no_single_parameter)
        params[:] = merge_param_groups(params)
        for group in params:
            settings = ', '.join(f'{key}={value}' for key, value in group.items() if key != 'params') or 'as the optimizer says'
            numbers = f'{len(group["params"])} tensors, {sum(tensor.numel() for tensor in group["params"])} numbers'
            print_log(f'parameter group: {settings}: {numbers}', logger='current')
