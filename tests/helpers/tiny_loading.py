"""Runners that load checkpoints: a narrow network in a model of MMEngine, four images, and a metric that keeps the scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from core_models import fill, narrow_model
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import Tensor, nn

from dynperceiver.checkpoint import convert_to_reference

CLASSES = ('ant', 'bee', 'cat', 'dog', 'eel')


class Images(torch.utils.data.Dataset[dict[str, Any]]):
    """Four images of 32x32 pixels, the same in every set."""

    def __init__(self, classes: Sequence[str] | None = CLASSES) -> None:
        self.metainfo = {} if classes is None else {'classes': tuple(classes)}

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {'inputs': torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(index)), 'data_samples': index}


class TinyModel(BaseModel):
    """A Dyn-Perceiver as ``backbone``, and ``head`` where there is one."""

    def __init__(self, backbone: nn.Module | None = None, head: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = narrow_model(dtype=torch.float32) if backbone is None else backbone
        if head is not None:
            self.head = head
        for parameter in self.parameters():  # so that what was loaded can be told from what was there
            nn.init.constant_(parameter, 0.01)

    def forward(self, inputs: Sequence[Tensor], data_samples: Any = None, mode: str = 'tensor') -> Any:
        images = torch.stack(list(inputs))
        if mode == 'loss':
            outputs = self.backbone(images) if self.backbone.exits is not None else self.backbone.pyramid(images)
            return {'loss': sum(output.mean() for output in outputs)}
        return list(torch.stack(self.backbone(images), 1))


class KeepScores(BaseMetric):
    """Keeps what a test gives."""

    def process(self, data_batch: Any, data_samples: Sequence[Tensor]) -> None:
        self.results += [sample.clone() for sample in data_samples]

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        self.scores = torch.stack(results)
        return {'count': len(results)}


def make_runner(work_dir: Path, model: BaseModel, load_from: Path | str | None, classes: Any = CLASSES, **changes: Any) -> Runner:
    """A runner that can train, validate and test; ``classes`` may be a ready data set."""
    dataset = Images(classes) if classes is None or isinstance(classes, tuple) else classes
    loader = {'dataset': dataset, 'batch_size': 4, 'sampler': {'type': 'DefaultSampler', 'shuffle': False}}
    settings: dict[str, Any] = {
        'train_dataloader': {**loader, 'batch_size': 2},
        'val_dataloader': loader,
        'test_dataloader': loader,
        'train_cfg': {'by_epoch': False, 'max_iters': 2, 'val_begin': 100},
        'val_cfg': {},
        'test_cfg': {},
        'val_evaluator': [KeepScores()],
        'test_evaluator': [KeepScores()],
        'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 0.0}},
        'load_from': None if load_from is None else str(load_from),
        'default_hooks': {'checkpoint': {'type': 'CheckpointHook', 'interval': 1, 'by_epoch': False}},
        'experiment_name': f'{work_dir.parent.name}_{work_dir.name}',  # two of one name and second would share their log
        'visualizer': {'type': 'Visualizer', 'vis_backends': [{'type': 'LocalVisBackend'}]},
        'randomness': {'seed': 0},
    }
    return Runner(model, str(work_dir), **{**settings, **changes})


def scores_of_test(runner: Runner) -> Tensor:
    """Logits of a test, shape (4, exits, classes)."""
    runner.test()
    (metric,) = runner.test_loop.evaluator.metrics
    scores: Tensor = metric.scores
    return scores


def scores_of(network: nn.Module) -> Tensor:
    """The same from a network as it is."""
    with torch.no_grad():
        return torch.stack(network.eval()(torch.stack([Images()[index]['inputs'] for index in range(4)])), 1)


def text_of_log(runner: Runner) -> str:
    """All that a runner has logged."""
    return Path(runner.log_dir, f'{runner.timestamp}.log').read_text()


def reference_weights(network: nn.Module, seed: str = '') -> dict[str, Tensor]:
    """Weights under the authors' names for a network, float32, different for every ``seed``."""
    shapes = {key: tuple(value.shape) for key, value in convert_to_reference(network.state_dict()).items()}
    filled = fill({seed + key: shape for key, shape in shapes.items()})
    values = dict(zip(shapes, filled.values(), strict=True))
    return {key: value.float() if value.is_floating_point() else value for key, value in values.items()}


def load_with(hook: Any, model: nn.Module, checkpoint: dict[str, Any], **state: Any) -> None:
    """Let a hook see a checkpoint as it does before MMEngine loads it, and load it; ``state`` changes the runner's."""
    loops = {'_train_loop': None, '_val_loop': None, '_test_loop': None}
    settings = {'model': model, 'hooks': [], '_has_loaded': False, '_load_from': 'folder/some.pth', '_resume': False, **loops, **state}
    hook.after_load_checkpoint(SimpleNamespace(**settings), checkpoint)
    _load_checkpoint_to_model(model, checkpoint)
