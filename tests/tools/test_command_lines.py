"""The flags of tools/train.py and tools/test.py: everything mmdet's and mmaction2's take, and what becomes of the config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config
from tiny_action import DEMO_CONFIG
from tool_runs import ROOT, finish, start

from dynperceiver.launch import UsageError, parse_test_args, parse_train_args, train_config
from dynperceiver.launch import test_config as config_of_test  # under its own name pytest would take it for a test

DETECTION = """
default_scope = 'mmdet'
model = dict(type='mmdet.RetinaNet', backbone=dict(depth=50))
tta_model = dict(type='DetTTAModel')
tta_pipeline = ['flips']
test_dataloader = dict(dataset=dict(pipeline=['plain']))
test_evaluator = dict(type='mmdet.CocoMetric', metric='bbox')
default_hooks = dict()
"""


@pytest.fixture(autouse=True)
def _no_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('LOCAL_RANK', 'to be restored')
    monkeypatch.delenv('LOCAL_RANK')


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    (tmp_path / 'some.pth').touch()
    return str(tmp_path / 'some.pth')


@pytest.fixture
def detection(tmp_path: Path) -> str:
    (tmp_path / 'detection.py').write_text(DETECTION)
    return str(tmp_path / 'detection.py')


def merged_train(*flags: str, config: str | Path = DEMO_CONFIG) -> Config:
    return train_config(parse_train_args([str(config), *flags]))


def merged_test(*flags: str, config: str | Path = DEMO_CONFIG) -> Config:
    return config_of_test(parse_test_args([str(config), *flags]))



# Flags of mmdet 3.3's and mmaction2 1.2's train.py and test.py, as their --help lists them.
TRAIN_FLAGS = [
    '--work-dir x --amp --auto-scale-lr --resume --cfg-options a=1 --launcher none --local_rank 1',
    '--work-dir x --resume some.pth --amp --no-validate --auto-scale-lr --seed 1 --diff-rank-seed --deterministic --cfg-options a=1',
    '--launcher pytorch --local-rank 1',
    '--launcher slurm',
    '--launcher mpi',
]
TEST_FLAGS = [
    '--work-dir x --out o.pkl --show --show-dir d --wait-time 0.5 --cfg-options a=1 --launcher none --tta --local_rank 1',
    '--work-dir x --dump o.pkl --show --show-dir d --interval 3 --wait-time 0.5 --cfg-options a=1 --launcher pytorch --local-rank 1',
]


@pytest.mark.parametrize('flags', TRAIN_FLAGS)
def test_flags_of_both_projects_train(flags: str) -> None:
    assert parse_train_args(['config.py', *flags.split()]).config == 'config.py'


@pytest.mark.parametrize('flags', TEST_FLAGS)
def test_flags_of_both_projects_test(flags: str) -> None:
    args = parse_test_args(['config.py', 'some.pth', *flags.split()])
    assert (args.config, args.checkpoint, args.out) == ('config.py', 'some.pth', 'o.pkl')


def test_train_without_flags_is_the_config_itself() -> None:
    cfg, plain = merged_train(), Config.fromfile(DEMO_CONFIG)
    assert {key: value for key, value in cfg.items() if key != 'launcher'} == dict(plain.items())
    assert cfg.launcher == 'none'


def test_work_dir_is_the_flags_or_the_configs_or_named_after_it(tmp_path: Path) -> None:
    assert merged_train().work_dir == 'work_dirs/demo'
    assert merged_train('--work-dir', 'elsewhere').work_dir == 'elsewhere'
    (tmp_path / 'leaf.py').write_text('model = dict()')
    assert merged_train(config=tmp_path / 'leaf.py').work_dir == 'work_dirs/leaf'


def test_resume_takes_the_newest_or_a_given_checkpoint(checkpoint: str) -> None:
    assert (merged_train('--resume').resume, merged_train('--resume').load_from) == (True, None)
    assert (merged_train('--resume', 'auto').resume, merged_train('--resume', 'auto').load_from) == (True, None)
    assert (merged_train('--resume', checkpoint).resume, merged_train('--resume', checkpoint).load_from) == (True, checkpoint)
    with pytest.raises(FileNotFoundError, match=r'checkpoint none\.pth to resume from is missing; --resume without a file takes'):
        merged_train('--resume', 'none.pth')


def test_no_validate_leaves_nothing_that_needs_validation() -> None:
    cfg = merged_train('--no-validate', '--cfg-options', 'val_dataloader.num_workers=0')
    assert cfg.val_cfg is cfg.val_dataloader is cfg.val_evaluator is None
    assert 'save_best' not in cfg.default_hooks.checkpoint
    assert cfg.test_evaluator is not None


def test_amp_switches_the_optimizer_wrapper() -> None:
    wrapper = merged_train('--amp').optim_wrapper
    assert (wrapper.type, wrapper.loss_scale) == ('AmpOptimWrapper', 'dynamic')
    assert merged_train('--amp', '--cfg-options', 'optim_wrapper.loss_scale=512.').optim_wrapper.loss_scale == 512
    with pytest.raises(UsageError, match=r'--amp cannot be combined with optim_wrapper of type ApexOptimWrapper; use OptimWrapper'):
        merged_train('--amp', '--cfg-options', 'optim_wrapper.type=mmengine.ApexOptimWrapper')


def test_auto_scale_lr_needs_the_batch_size_that_the_rate_is_for(tmp_path: Path) -> None:
    assert merged_train('--auto-scale-lr').auto_scale_lr == dict(enable=True, base_batch_size=32)
    (tmp_path / 'leaf.py').write_text('model = dict()')
    with pytest.raises(UsageError, match=r'--auto-scale-lr needs .* auto_scale_lr=dict\(base_batch_size=...\) in the config'):
        merged_train('--auto-scale-lr', config=tmp_path / 'leaf.py')
    cfg = merged_train('--auto-scale-lr', '--cfg-options', 'auto_scale_lr.base_batch_size=8', config=tmp_path / 'leaf.py')
    assert cfg.auto_scale_lr == dict(enable=True, base_batch_size=8)


def test_randomness_flags_add_to_the_configs() -> None:
    assert merged_train('--seed', '7').randomness == dict(seed=7, diff_rank_seed=False, deterministic=False)
    assert merged_train('--deterministic').randomness == dict(seed=0, diff_rank_seed=False, deterministic=True)
    assert merged_train('--diff-rank-seed').randomness == dict(seed=0, diff_rank_seed=True, deterministic=False)


def test_cfg_options_have_the_last_word_in_training() -> None:
    flags = ['--seed', '7', '--work-dir', 'a', '--resume', '--cfg-options']
    cfg = merged_train(*flags, 'randomness.seed=8', 'work_dir=b', 'resume=False', 'launcher=mpi')
    assert (cfg.randomness.seed, cfg.work_dir, cfg.resume, cfg.launcher) == (8, 'b', False, 'mpi')
    cfg = merged_train('--cfg-options', 'model.backbone.depth_factors=1,1,1,2', 'optim_wrapper.optimizer.lr=1e-5', 'load_from=None')
    assert (cfg.model.backbone.depth_factors, cfg.optim_wrapper.optimizer.lr, cfg.load_from) == ([1, 1, 1, 2], 1e-5, None)


def test_cfg_options_have_the_last_word_in_testing(checkpoint: str) -> None:
    flags = ['--work-dir', 'a', '--show-dir', 'd', '--out', 'o.pkl', '--cfg-options']
    cfg = merged_test(checkpoint, *flags, 'work_dir=b', 'default_hooks.visualization.interval=9', 'test_evaluator.prefix=top')
    assert (cfg.work_dir, cfg.default_hooks.visualization.interval) == ('b', 9)
    assert cfg.test_evaluator[0] == dict(type='dynperceiver.MultiExitAccuracy', prefix='top')


def test_local_rank_reaches_the_environment_unless_the_launcher_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    merged_train('--local_rank', '3')
    assert os.environ['LOCAL_RANK'] == '3'
    merged_train('--local-rank', '4')
    assert os.environ['LOCAL_RANK'] == '3'


def test_checkpoint_is_loaded_and_must_be_there(checkpoint: str) -> None:
    assert merged_test(checkpoint).load_from == checkpoint
    assert merged_test('https://example.org/some.pth').load_from == 'https://example.org/some.pth'
    with pytest.raises(FileNotFoundError, match=r'checkpoint none\.pth is missing; train one with tools/train\.py .*demo\.py'):
        merged_test('none.pth')


@pytest.mark.parametrize('flag', ['--out', '--dump'])
def test_predictions_go_to_a_pickle_file(checkpoint: str, detection: str, flag: str) -> None:
    own = dict(type='dynperceiver.MultiExitAccuracy')
    assert merged_test(checkpoint, flag, 'o.pkl').test_evaluator == [own, dict(type='mmengine.DumpResults', out_file_path='o.pkl')]
    assert merged_test(checkpoint, flag, 'o.pickle', config=detection).test_evaluator[-1] == dict(
        type='mmdet.DumpDetResults', out_file_path='o.pickle')
    with pytest.raises(UsageError, match=r'--out o\.json: .* use a name that ends in \.pkl or \.pickle'):
        merged_test(checkpoint, flag, 'o.json')


def test_show_flags_reach_the_hook_that_draws(checkpoint: str, detection: str, tmp_path: Path) -> None:
    flags = ['--show-dir', 'd', '--interval', '5', '--wait-time', '0.5']
    assert merged_test(checkpoint, *flags).default_hooks.visualization == dict(
        type='dynperceiver_action.DrawPredictionsHook', enable=True, out_dir='d', show=False, wait_time=0.5, interval=5)
    assert merged_test(checkpoint, '--show').default_hooks.visualization.show is True
    with pytest.raises(UsageError, match=r"--interval 5: MMDetection's DetVisualizationHook draws every image of a test; leave it out"):
        merged_test(checkpoint, *flags, config=detection)
    flags = ['--show-dir', 'd', '--wait-time', '0.5']
    assert merged_test(checkpoint, '--show', *flags, config=detection).default_hooks.visualization == dict(
        type='mmdet.DetVisualizationHook', draw=True, test_out_dir='d', show=True, wait_time=0.5, interval=1)
    assert 'enable' not in merged_test(checkpoint).default_hooks.visualization
    (tmp_path / 'bare.py').write_text("default_scope = 'mmaction'")
    with pytest.raises(UsageError, match=r'need a hook that draws.*add default_hooks\.visualization'):
        merged_test(checkpoint, '--show', config=tmp_path / 'bare.py')
    with pytest.raises(UsageError, match=r'--interval 0: pass 1 to draw every sample, 2 for every second'):
        merged_test(checkpoint, '--show', '--interval', '0')


def test_tta_wraps_the_model_as_the_options_made_it(checkpoint: str, detection: str) -> None:
    cfg = merged_test(checkpoint, '--tta', '--cfg-options', 'model.backbone.depth=18', config=detection)
    assert cfg.model == dict(type='DetTTAModel', module=dict(type='mmdet.RetinaNet', backbone=dict(depth=18)))
    assert cfg.test_dataloader.dataset.pipeline == ['flips']
    with pytest.raises(UsageError, match=r'--tta needs tta_model and tta_pipeline in the config'):
        merged_test(checkpoint, '--tta')


def test_tta_looks_through_wrappers_of_the_data_set(checkpoint: str, detection: str, tmp_path: Path) -> None:
    wrapped = "test_dataloader = dict(dataset=dict(_delete_=True, type='Wrapper', dataset=dict(datasets=[dict(pipeline=['plain'])])))"
    (tmp_path / 'wrapped.py').write_text(f"_base_ = ['{detection}']\n{wrapped}")
    dataset = merged_test(checkpoint, '--tta', config=tmp_path / 'wrapped.py').test_dataloader.dataset
    assert dataset.dataset.datasets[0].pipeline == ['flips'] and 'pipeline' not in dataset


def test_tta_of_detection_needs_nothing_in_the_config(checkpoint: str, tmp_path: Path) -> None:
    steps = [dict(type='Resize'), dict(type='PackDetInputs')]
    text = f"default_scope = 'mmdet'\nmodel = dict(type='RetinaNet')\ntest_dataloader = dict(dataset=dict(pipeline={steps}))\n"
    (tmp_path / 'bare.py').write_text(text)
    cfg = merged_test(checkpoint, '--tta', config=tmp_path / 'bare.py')
    nms = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
    assert cfg.model == dict(type='DetTTAModel', tta_cfg=nms, module=dict(type='RetinaNet'))
    first, last = cfg.test_dataloader.dataset.pipeline
    assert first == dict(type='Resize') and last.type == 'TestTimeAug'
    flips, [pack] = last.transforms
    assert flips == [dict(type='mmdet.RandomFlip', prob=1.0), dict(type='mmdet.RandomFlip', prob=0.0)]
    assert pack.type == 'mmdet.PackDetInputs' and {'flip', 'flip_direction', 'img_id'} < set(pack.meta_keys)
    (tmp_path / 'half.py').write_text(f"{text}tta_pipeline = ['own']\n")
    cfg = merged_test(checkpoint, '--tta', config=tmp_path / 'half.py')
    assert cfg.model.tta_cfg == nms and cfg.test_dataloader.dataset.pipeline == ['own']
    (tmp_path / 'other.py').write_text(text.replace('PackDetInputs', 'Other'))
    with pytest.raises(UsageError, match=r'--tta flips before PackDetInputs, which does not end the test pipeline; add tta_pipeline'):
        merged_test(checkpoint, '--tta', config=tmp_path / 'other.py')


@pytest.mark.parametrize(
    ('tool', 'arguments', 'message'),
    [
        ('train', ['none.py'], 'error: config none.py is missing; the configs that come with the project are below configs/'),
        ('train', [DEMO_CONFIG, '--resume', 'none.pth'], 'error: checkpoint none.pth to resume from is missing; '),
        ('test', ['none.py', 'none.pth'], 'error: config none.py is missing; '),
        ('test', [DEMO_CONFIG, 'none.pth'], 'error: checkpoint none.pth is missing; train one with tools/train.py '),
        ('test', [DEMO_CONFIG, 'none.pth', '--out', 'o.txt'], 'error: --out o.txt: '),
    ],
)
def test_user_errors_end_a_tool_with_one_line(tool: str, arguments: list[str | Path], message: str, call_tool: Callable[..., None]) -> None:
    with pytest.raises(SystemExit) as caught:
        call_tool(tool, *arguments)
    assert str(caught.value.code).startswith(message) and '\n' not in str(caught.value.code)


def test_missing_config_is_one_clean_line_on_stderr() -> None:
    out, err = finish(start(['tools/train.py', 'none.py']), code=1)
    assert (out, err) == ('', 'error: config none.py is missing; the configs that come with the project are below configs/\n')


def test_missing_data_says_where_to_get_it_and_what_needs_none(
    tmp_path: Path, call_tool: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main config on a machine without Something-Something; started from an empty folder, so that none is found."""
    monkeypatch.chdir(tmp_path)
    config = ROOT / 'configs' / 'action' / 'tsm_dynperceiver.py'
    with pytest.raises(SystemExit) as caught:
        call_tool('train', config, '--cfg-options', 'model.backbone.width=0.125', 'model.backbone.num_latents=8')
    first = str(caught.value.code).splitlines()[0]
    assert first.startswith('error: ') and 'Traceback' not in str(caught.value.code)
    assert 'folder data/sthv1/rawframes' in first and 'file data/sthv1/sthv1_train_list_rawframes.txt' in first
    assert 'comes from Something-Something V1' in first and 'https://' in first
    assert '`make demo` needs no' in first
