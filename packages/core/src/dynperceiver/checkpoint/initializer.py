"""Start a network from an image checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from dynperceiver_runtime import FileError, MissingPackageError, UserError

from ..feature_branches import FeatureBranch
from ..models import DynPerceiver, StaticTrunk, find_network
from ..registry import WEIGHT_INITIALIZERS
from ..structures import CLASSES_KEYS
from .errors import CheckpointError
from .files import read_weights

__all__ = ['ImageCheckpoint', 'load_image_checkpoint', 'load_trunk_checkpoint']


def _differs_in_classes(given: Mapping[str, Tensor], own: Mapping[str, Tensor], key: str) -> bool:
    """Whether a tensor has another shape for no other reason than another number of classes."""
    known = next((name for name in CLASSES_KEYS if name in given and name in own), None)
    if not key.startswith('exits.') or known is None or given[key].shape == own[key].shape:
        return False
    classes = given[known].shape[0], own[known].shape[0]
    sizes = given[key].shape, own[key].shape
    return len(sizes[0]) == len(sizes[1]) and all(pair in (classes, (pair[1], pair[1])) for pair in zip(*sizes, strict=True))


def load_image_checkpoint(model: nn.Module, state_dict: Mapping[str, Tensor], source: str = 'the checkpoint') -> list[str]:
    """Load all but what depends on the number of classes.

    Args:
        model: A :class:`~dynperceiver.models.DynPerceiver`, or a :class:`~dynperceiver.feature_branches.FeatureBranch` alone, which takes
            the feature branch of the checkpoint.
        state_dict: Our names; see :func:`read_state_dict`.
        source: What to call it in the log.

    Returns:
        Names of the tensors that were left out, because the classes differ or none of a backbone's maps depends on them; they are
        logged, too.

    Raises:
        UserError: If it is of another variant.
    """
    network: Any = model
    own = network.state_dict()
    if isinstance(model, FeatureBranch):
        reason = 'the model is a feature branch alone'
        dropped = tuple(f'feature_branch.{prefix}' for prefix in network.unused_prefixes)
        skipped = [key for key in state_dict if not key.startswith('feature_branch.') or key.startswith(dropped)]
        _load_trunk(network, {key.removeprefix('feature_branch.'): value for key, value in state_dict.items() if key not in skipped})
    else:
        if any(key.startswith('exits.') for key in own):
            reason = 'the number of classes differs'
            skipped = [key for key in state_dict if key in own and _differs_in_classes(state_dict, own, key)]
        else:
            reason = 'the model has no exits, and its maps do not depend on them'
            skipped = [key for key in state_dict if key.startswith(network.unused_prefixes)]
        network.load_state_dict({key: value for key, value in state_dict.items() if key not in skipped}, strict=False)
    if skipped:
        print_log(f'{source}: {len(skipped)} tensors left out, since {reason}: {", ".join(skipped)}', logger='current')
    print_log(f'{source}: {len(state_dict) - len(skipped)} tensors loaded', logger='current')
    return skipped


def load_trunk_checkpoint(model: nn.Module, state_dict: Mapping[str, Tensor], source: str = 'the checkpoint') -> list[str]:
    """Load a CNN with its classifier; what else the model has keeps its values.

    Args:
        model: A :class:`~dynperceiver.models.DynPerceiver`, whose exit 3 is the CNN's classifier; a
            :class:`~dynperceiver.models.StaticTrunk`; or a :class:`~dynperceiver.feature_branches.FeatureBranch` alone.
        state_dict: That of a static trunk, our names, with or without its classifier.
        source: What to call it in the log.

    Returns:
        Names of the tensors that were left out, since the model has other classes, no such exit, or fewer stages; they are logged, too,
        and so are the parts of the model that the checkpoint does not have.

    Raises:
        UserError: If it is of another feature branch.
    """
    whole: Any = model
    trunk: Any = model if isinstance(model, FeatureBranch) else whole.feature_branch
    unused = tuple(f'feature_branch.{prefix}' for prefix in trunk.unused_prefixes)
    dropped = [key for key in state_dict if key.startswith(unused)]
    _load_trunk(
        trunk,
        {
            key.removeprefix('feature_branch.'): value
            for key, value in state_dict.items()
            if key.startswith('feature_branch.') and key not in dropped
        },
    )
    exits = None if isinstance(model, FeatureBranch) else whole.exits
    classifier = {key: value for key, value in state_dict.items() if key.startswith('exits.0.')}
    fitting: dict[str, Tensor] = {}
    if exits is not None:
        index = exits.trunk_exit_index if isinstance(model, DynPerceiver) else 0
        own = exits[index].state_dict()
        fitting = {
            name: value
            for name, value in ((key.removeprefix('exits.0.'), value) for key, value in classifier.items())
            if name in own and own[name].shape == value.shape
        }
        exits[index].load_state_dict(fitting, strict=False)
    others = [key for key in classifier if key.removeprefix('exits.0.') not in fitting]
    reason = 'the model has no exits' if exits is None else 'the number of classes differs'
    for keys, why in ((dropped, "none of the model's maps depends on them"), (others, reason)):
        if keys:
            print_log(f'{source}: {len(keys)} tensors left out, since {why}: {", ".join(keys)}', logger='current')
    print_log(f'{source}: {len(state_dict) - len(dropped) - len(others)} tensors loaded', logger='current')
    if isinstance(model, DynPerceiver):
        rest = ['latent_branch'] if exits is None else ['latent_branch', *(f'exits.{i}' for i in range(len(exits)) if i != index)]
        print_log(f'{source} is a CNN alone: {", ".join(rest)} of the model keep their initial values', logger='current')
    return [*dropped, *others]


def _load_trunk(trunk: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    own = trunk.state_dict()
    absent = [key for key in own if key not in state_dict]
    differ = [key for key, value in state_dict.items() if key not in own or own[key].shape != value.shape]
    facts = (('not in the checkpoint', absent), ('of another shape, or not in the model', differ))
    listing = '; '.join(
        f'{len(keys)} tensors {fact} ({", ".join(keys[:4])}{", ..." * (len(keys) > 4)})' for fact, keys in facts if keys
    )
    if listing:
        raise UserError(
            f'the checkpoint is of another feature branch or width: {listing}; use a checkpoint of the same feature_branch and width'
        )
    trunk.load_state_dict(state_dict)


def _with_its_classifier(network: nn.Module, model: nn.Module) -> nn.Module:
    """The static trunk whose feature branch this is, where it is one's; otherwise the network itself."""
    trunks = (module for module in model.modules() if isinstance(module, StaticTrunk) and module.feature_branch is network)
    return next(trunks, network)


@WEIGHT_INITIALIZERS.register_module(name='ImageCheckpoint')
class ImageCheckpoint:
    """MMEngine initializer: ``init_cfg=dict(type='dynperceiver.ImageCheckpoint', checkpoint=...)``.

    Args:
        checkpoint: File or URL of a checkpoint of ours or of the authors, or of a CNN alone of another library (see
            :data:`~dynperceiver.checkpoint.TRUNK_NAMES`); ``'pretrained://efficientnet_lite0'`` names published weights in an installed
            package (see :data:`~dynperceiver.checkpoint.PRETRAINED`). ``None`` leaves the random initialisation.
        weights: See :func:`~dynperceiver.checkpoint.unwrap_checkpoint`.
    """

    def __init__(self, checkpoint: str | None = None, weights: str | None = None) -> None:
        self.checkpoint = checkpoint
        self.weights = weights

    def __call__(self, module: nn.Module) -> None:
        """Load into the one Dyn-Perceiver, or where there is none the one feature branch, within ``module``.

        Raises:
            MissingFileError: If the file is missing.
            MissingPackageError: If the package with the published weights is not installed.
            UserError: If ``module`` holds no such network, or the checkpoint is of another variant.
        """
        if self.checkpoint is None:
            print_log('no image checkpoint given: training starts from random weights', logger='current')
            return
        network = find_network(module)
        found: list[nn.Module] = [child for child in module.modules() if isinstance(child, FeatureBranch)] if network is None else [network]
        if len(found) != 1:
            raise UserError(
                f'{type(module).__name__} holds no DynPerceiver and {len(found) or "no"} feature branch{"es" if found else ""}; put the '
                'init_cfg of type dynperceiver.ImageCheckpoint on a model with one'
            )
        try:
            state_dict, foreign = read_weights(self.checkpoint, self.weights)
            if foreign is None:
                load_image_checkpoint(found[0], state_dict, self.checkpoint)
            else:
                load_trunk_checkpoint(_with_its_classifier(found[0], module), state_dict, self.checkpoint)
        except (FileError, CheckpointError, MissingPackageError):  # they name the file
            raise
        except UserError as error:
            raise CheckpointError(f'{self.checkpoint}: {error}') from error

    def _get_init_info(self) -> Any:
        return f'{type(self).__name__}: load from {self.checkpoint}'
