"""The repair that lets MMAction2's wheel be imported; ``import dynperceiver_action`` sees to it before anything else.

The wheel of MMAction2 1.2.0 lacks ``mmaction.models.localizers.drn``, which its own code imports. Where it is missing, a stand-in takes its
place, so that everything but the localizer DRN works.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from dynperceiver_runtime import MissingPackageError

__all__ = ['apply', 'mmaction_lacks_drn', 'repairs']

DRN_PACKAGE = 'mmaction.models.localizers.drn'


def mmaction_lacks_drn() -> bool:
    """Whether MMAction2 is installed without its part ``mmaction.models.localizers.drn``; imports nothing of it."""
    try:
        spec = importlib.util.find_spec('mmaction')
    except ValueError:  # something that is no package stands in sys.modules under this name
        return False
    folders = [Path(place, *DRN_PACKAGE.split('.')[1:]) for place in (spec and spec.submodule_search_locations) or ()]
    return any(folder.parent.is_dir() for folder in folders) and not any((folder / 'drn.py').is_file() for folder in folders)


def repairs() -> list[str]:
    """What this environment needs of it, in words."""
    return ['its wheel lacks localizers.drn, a stand-in is used'] if mmaction_lacks_drn() else []


def apply() -> None:
    """Let ``import mmaction.models`` succeed where the wheel lacks the localizer DRN; imports nothing of it, and may be called again."""
    if DRN_PACKAGE in sys.modules or not mmaction_lacks_drn():
        return
    module_name = f'{DRN_PACKAGE}.drn'
    package, module = (ModuleType(name, 'Stand-in by dynperceiver_action.compat.') for name in (DRN_PACKAGE, module_name))
    package.__spec__, module.__spec__ = ModuleSpec(DRN_PACKAGE, None, is_package=True), ModuleSpec(module_name, None)
    vars(package).update(__path__=[], drn=module, DRN=_MissingDRN)
    vars(module).update(DRN=_MissingDRN)
    sys.modules.update({DRN_PACKAGE: package, module_name: module})


class _MissingDRN:
    """What ``DRN`` is where MMAction2's wheel came without it."""

    def __init__(self, *args: object, **kwargs: object) -> NoReturn:
        raise MissingPackageError(
            f'DRN cannot be built: the installed mmaction2 lacks {DRN_PACKAGE}, and a stand-in is there so that all its other models work; '
            'for DRN itself install MMAction2 from its git repository instead of the wheel'
        )
