"""tools/dist_train.sh and tools/dist_test.sh with two processes on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tool_runs import records_of_ranks, result_of_test

if TYPE_CHECKING:
    from conftest import TinyRuns


@pytest.fixture
def ranks(tiny_runs: TinyRuns) -> list[dict[str, Any]]:
    """What each rank recorded."""
    assert tiny_runs.distributed
    return records_of_ranks(tiny_runs.records)


def test_both_ranks_end_with_the_same_weights(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]['start'] == ranks[1]['start']
    assert ranks[0]['after_step'] == ranks[1]['after_step'] != ranks[0]['start']
    assert ranks[0]['end'] == ranks[1]['end']  # running statistics of the norms included


def test_each_rank_trains_on_its_own_half(ranks: list[dict[str, Any]], tiny_runs: TinyRuns) -> None:
    seen = [set(rank['files']) for rank in ranks]
    assert all(len(rank['files']) == 8 for rank in ranks)
    assert not seen[0] & seen[1]
    assert {name.rpartition('/')[2] for name in seen[0] | seen[1]} == {path.name for path in (tiny_runs.data / 'train').iterdir()}
    assert ranks[0]['losses'] != ranks[1]['losses']


def test_no_parameter_goes_unused(ranks: list[dict[str, Any]]) -> None:
    """Every exit is in the loss, so the wrapper need not look for parameters without a gradient."""
    assert [(rank['wrapped'], rank['find_unused_parameters']) for rank in ranks] == [(True, False)] * 2


def test_two_processes_leave_one_checkpoint_and_validate_all_clips(tiny_runs: TinyRuns) -> None:
    folder = tiny_runs.distributed / 'trained'
    assert [path.name for path in folder.glob('*.pth')] == ['epoch_1.pth']
    (log,) = folder.glob('*/*.log')
    assert 'accuracy per exit on 7 samples' in log.read_text()


def test_two_processes_test_like_one(tiny_runs: TinyRuns) -> None:
    assert result_of_test(tiny_runs.distributed / 'tested') == result_of_test(tiny_runs.tested)
