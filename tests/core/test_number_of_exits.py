"""Nothing counts on four exits: a network of three goes all the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from core_models import standard_normal
from dynamic_runs import assert_replayed, full_logits, make_images, spread_policy
from three_exits import three_exits

from dynperceiver.analysis import count_exit_costs
from dynperceiver.benchmark.speed import ScriptedPolicy, measure_speed, script_exits, static_trunk_of
from dynperceiver.deployment import freeze
from dynperceiver.deployment.export import export
from dynperceiver.deployment.folding import fold
from dynperceiver.inference import DynamicRunner, ExitPolicy
from dynperceiver.losses import MultiExitLoss, batch_accuracies

IMAGES = (3, 3, 64, 64)


@torch.no_grad()
def test_the_exits_are_the_first_three_of_the_paper() -> None:
    network, whole = three_exits()
    images = standard_normal(IMAGES)
    assert network.num_exits == len(network(images)) == 3
    for logits, same in zip(network(images), whole(images), strict=False):
        assert torch.equal(logits, same)
    for logits, same in zip(fold(network, (64, 64))(images), network(images), strict=True):
        torch.testing.assert_close(logits, same)
    for level, same in zip(network.pyramid(images), whole.feature_branch.pyramid(images), strict=True):
        assert torch.equal(level, same), 'maps that no latent code writes to are collected, too'
    trunk = static_trunk_of(network)
    assert torch.equal(trunk(images)[0], network(images)[-1])
    assert network.exits_of_stages == {1: None, 2: None, 3: 1, 4: 2}


def test_weights_of_another_number_of_exits_are_refused() -> None:
    network, whole = three_exits()
    other, _ = three_exits()
    other.load_state_dict(network.state_dict())
    with pytest.raises(ValueError, match=r'of another variant than the model: not in the model: exits\.3\.'):
        network.load_state_dict(whole.state_dict())
    with pytest.raises(ValueError, match=r'of another variant than the model: not in the checkpoint: exits\.3\.'):
        whole.load_state_dict(network.state_dict())


def test_costs() -> None:
    network, whole = three_exits()
    costs = count_exit_costs(network, 64, 64)
    assert [cost.number for cost in costs] == [1, 2, 3]
    assert costs[-1].num_params == sum(parameter.numel() for parameter in network.parameters())
    for cost, same in zip(costs, count_exit_costs(whole, 64, 64), strict=False):
        assert (cost.cost_gmacs, cost.num_params) == (same.cost_gmacs, same.num_params)


def test_all_exits_learn_together() -> None:
    network, _ = three_exits()
    labels = torch.tensor([0, 1, 2])
    logits = network(standard_normal(IMAGES))
    terms = MultiExitLoss(exit_weights=(0.5, 0.5, 1.0))(logits, labels)
    assert set(terms) == {'loss_exit1', 'loss_exit2', 'loss_exit3', 'loss_distill'}
    sum(terms.values()).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    assert set(batch_accuracies(logits, labels, (1,))) == {'exit1_top1', 'exit2_top1', 'exit3_top1'}
    with pytest.raises(ValueError, match=r'the model has 3 exits, but exit_weights=\(0\.5, 0\.5, 1\.0, 1\.0\); give the loss one weight'):
        MultiExitLoss()(logits, labels)


def test_samples_leave_where_a_replay_says(tmp_path: Path) -> None:
    network, _ = three_exits(torch.float32, num_classes=5)
    images = make_images(12).float()
    logits_ESK = full_logits(network, images)
    policy = spread_policy(logits_ESK, between=True)
    assert_replayed(DynamicRunner(network, policy)(images), policy, logits_ESK, tolerance=1e-4)
    assert_replayed(DynamicRunner(network, policy, max_exit=1)(images), policy, logits_ESK, max_exit=1, tolerance=1e-4)
    report = export(freeze(network, images.shape[2:]), tmp_path / 'exported', policy=policy)
    assert sorted(path.name for path in (tmp_path / 'exported').glob('*.onnx')) == ['segment1.onnx', 'segment2.onnx', 'segment3.onnx']
    assert report.manifest.num_exits == 3
    result = DynamicRunner(tmp_path / 'exported', backend='onnxruntime')(images.numpy())
    assert_replayed(result, policy, logits_ESK, tolerance=1e-4)
    assert set(np.asarray(result.exit_index).tolist()) == {0, 1, 2}
    with pytest.raises(ValueError, match='the policy has 3 thresholds, for 4 exits, but the network has 3 exits; pass 2 thresholds'):
        DynamicRunner(network, ExitPolicy((0.5, 0.5, 0.5)))


def test_speed() -> None:
    network, _ = three_exits(torch.float32)
    exits = script_exits((0.5, 0.25, 0.25), 8)
    result = DynamicRunner(network, ScriptedPolicy(exits, network.num_exits))(torch.randn(8, 3, 64, 64))
    assert result.exit_index.tolist() == exits.tolist()
    report = measure_speed(network, ['torch'], [1], (32, 32), exit_fractions=(0.5, 0.25, 0.25), rounds=3, max_seconds=1)
    names = [row['name'] for row in report['rows']]
    assert names[:3] == ['exit 1', 'exit 2', 'exit 3'] and 'exit 4' not in names
