"""Seeded faults: makes one edit of packages/ at a time in a copy of the repository, and says whether the tests meant for it notice.

    .venv/bin/python tests/mutations.py             # all of them, half an hour
    .venv/bin/python tests/mutations.py --only 3 7  # some
    .venv/bin/python tests/mutations.py --check     # only whether the edits still fit the code

An edit is of the kind that people make: off by one, a wrong axis or sign, swapped arguments, one field forgotten. A survivor shows a gap
in the tests. Where code is rewritten, its edits are, too: an edit that no longer fits is an error.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = ('.git', '.venv', 'data', 'work_dirs')  # of the top folder
SOURCES = {
    'runtime': 'packages/runtime/src/dynperceiver_runtime',
    'core': 'packages/core/src/dynperceiver',
    'cls': 'packages/classification/src/dynperceiver_cls',
    'det': 'packages/detection/src/dynperceiver_det',
    'action': 'packages/action/src/dynperceiver_action',
}


class Edit(NamedTuple):
    """One edit: file as ``PACKAGE/PATH``, the text that must be there exactly once, what comes instead, and tests below ``tests``."""

    file: str
    old: str
    new: str
    tests: str


EDITS = (
    Edit(
        'core/structures.py',
        'pyramid=None if self.pyramid is None else tuple(map(pick_map, self.pyramid)),',
        '',
        'core/test_structures.py core/models/test_segments.py core/models/test_backbone.py',
    ),
    Edit(
        'core/structures.py',
        '(index_S[:, None] * self.num_frames + frames_T)',
        '(index_S[:, None] + frames_T * self.num_samples)',
        'core/test_structures.py core/models/test_video.py core/models/test_backbone.py',
    ),
    Edit(
        'core/layers/temporal.py',
        '[_ONE_EARLIER, _ONE_LATER] if',
        '[_ONE_LATER, _ONE_EARLIER] if',
        'core/layers/test_temporal.py',
    ),
    Edit(
        'core/layers/attention.py',
        'F.gelu(self.fc1(self.layernorm(tokens_BNC)))',
        "F.gelu(self.fc1(self.layernorm(tokens_BNC)), approximate='tanh')",
        'core/test_golden.py',
    ),
    Edit(
        'core/layers/drop_path.py',
        'residual * keep.div_(1 - self.drop_prob)',
        'residual * keep',
        'core/layers core/feature_branches/test_families.py',
    ),
    Edit(
        'core/losses/multi_exit.py',
        'logits_SK[-1].detach()',
        'logits_SK[-1]',
        'core/losses',
    ),
    Edit(
        'core/metrics/multi_exit_accuracy.py',
        '(np.arange(scores_SEK.shape[2]) < label_S11)',
        '(np.arange(scores_SEK.shape[2]) > label_S11)',
        'core/metrics/test_multi_exit_accuracy.py',
    ),
    Edit(
        'core/metrics/exit_calibration.py',
        "side='left'",
        "side='right'",
        'core/metrics/test_exit_calibration.py',
    ),
    Edit(
        'core/metrics/exit_agreement.py',
        '(right_SE[:, :, None] & ~right_SE[:, None, :])',
        '(right_SE[:, None, :] & ~right_SE[:, :, None])',
        'core/metrics/test_exit_agreement.py',
    ),
    Edit(
        'core/feature_branches/mobilenet_v3.py',
        'input = F.pad(input, (0, even_w, 0, even_h))',
        'input = F.pad(input, (even_w, 0, even_h, 0))',
        'core/feature_branches/test_families.py',
    ),
    Edit(
        'core/checkpoint/trunk_names.py',
        'row.norm_eps - module.eps for',
        'module.eps - row.norm_eps for',
        'core/checkpoint/test_trunk_names.py',
    ),
    Edit(
        'core/checkpoint/convert.py',
        "WRAPPERS = ('model_ema', 'model', 'state_dict')",
        "WRAPPERS = ('model', 'model_ema', 'state_dict')",
        'core/checkpoint/test_convert.py core/hooks/test_reference_checkpoint.py',
    ),
    Edit(
        'core/hooks/resumable_randomness.py',
        'self.epoch.fill_(runner.epoch)',
        'self.epoch.fill_(0)',
        'core/hooks/test_hooks.py core/hooks/test_resumable_randomness.py',
    ),
    Edit(
        'core/hooks/resumable_randomness.py',
        '_seed_everything(runner.seed, runner.iter, get_rank(), FOR_STEPS)',
        '_seed_everything(runner.seed, runner.epoch, get_rank(), FOR_STEPS)',
        'core/hooks/test_hooks.py core/hooks/test_resumable_randomness.py',
    ),
    Edit(
        'core/hooks/non_finite_loss.py',
        "priority = 'VERY_HIGH'",
        "priority = 'VERY_LOW'",
        'core/hooks/test_hooks.py',
    ),
    Edit(
        'core/hooks/averaged_buffers.py',
        "op='mean'",
        "op='sum'",
        'core/hooks/test_averaged_buffers.py core/hooks/test_resumable_randomness.py',
    ),
    Edit(
        'core/analysis/flops.py',
        '/ 2e9',
        '/ 1e9',
        'core/analysis/test_flops.py',
    ),
    Edit(
        'cls/batch_augments/mixing.py',
        'return 1 - (bottom - top) * (right - left) / (height * width), (top',
        'return lam, (top',
        'classification/batch_augments/test_mixing.py',
    ),
    Edit(
        'cls/batch_augments/random_erasing.py',
        '[(pixels_BA * ratio_BA).sqrt_(), (pixels_BA / ratio_BA).sqrt_()]',
        '[(pixels_BA / ratio_BA).sqrt_(), (pixels_BA * ratio_BA).sqrt_()]',
        'classification/batch_augments/test_random_erasing.py',
    ),
    Edit(
        'core/data/splits.py',
        'max(1, round(count * holdout))',
        'max(1, round(count * (1 - holdout)))',
        'core/data/test_splits.py',
    ),
    Edit(
        'cls/models/classifier.py',
        'labels = scores_BEK[:, -1].argmax(1).tolist()',
        'labels = scores_BEK[:, 0].argmax(1).tolist()',
        'classification/models/test_classifier.py',
    ),
    Edit(
        'action/models/recognizer.py',
        'average_logits(logits_NVK, self.average_views)',
        "average_logits(logits_NVK, 'score')",
        'action/test_recognizer.py action/test_dynamic_recognizer.py',
    ),
    Edit(
        'action/datasets/containers.py',
        '8 + int.from_bytes(head[4:8]',
        'int.from_bytes(head[4:8]',
        'action/test_containers.py action/test_datasets.py',
    ),
    Edit(
        'action/transforms/placement.py',
        '(width * (1 - share_x), height * (1 - share_y))',
        '(width * (1 - share_y), height * (1 - share_x))',
        'action/test_transforms.py',
    ),
    Edit(
        'det/models/backbones.py',
        'range(self.frozen_stages + 1)',
        'range(self.frozen_stages)',
        'detection/models/test_backbone_training.py',
    ),
    Edit(
        'det/models/backbones.py',
        'tuple(pyramid_levels(strides)[index] for index in self.out_indices)',
        'tuple(index + 1 for index in self.out_indices)',
        'detection/models/test_backbones.py',
    ),
    Edit(
        'det/datasets/boxes.py',
        "np.array([images['width'], images['height']]",
        "np.array([images['height'], images['width']]",
        'detection/datasets/test_boxes.py detection/datasets/test_coco.py',
    ),
    Edit(
        'det/datasets/images.py',
        'orientation in (5, 6, 7, 8)',
        'orientation in (6, 8)',
        'detection/datasets/test_images.py',
    ),
    Edit(
        'runtime/policy/exit_rule.py',
        'np.asarray(score_S >= threshold)',
        'np.asarray(score_S > threshold)',
        'runtime/policy/test_exit_rule.py',
    ),
    Edit(
        'runtime/policy/scores.py',
        'lead_S + np.log(-np.expm1(-lead_S))',
        'lead_S + np.log(np.expm1(lead_S))',
        'runtime/policy/test_scores.py',
    ),
    Edit(
        'runtime/streams.py',
        'self.num_samples -= batch_size - missing',
        'self.num_samples -= batch_size',
        'runtime/test_streams.py',
    ),
    Edit(
        'runtime/deadlines.py',
        'CALLS_PER_LATE_ANSWER = 33',
        'CALLS_PER_LATE_ANSWER = 3',
        'runtime/test_deadlines.py',
    ),
    Edit(
        'runtime/views.py',
        '_log_sum_exp(_log_softmax(logits_SVK), 1)',
        '_log_sum_exp(logits_SVK, 1)',
        'runtime/test_views.py',
    ),
    Edit(
        'runtime/engines/onnx_runtime.py',
        '        arrays.update((name, state.arrays[name]) for name in graph.keeps)\n',
        '',
        'core/deployment/export/test_graphs.py',
    ),
    Edit(
        'core/calibration/exit_fractions.py',
        'np.floor(np.float32(num_samples)',
        'np.ceil(np.float32(num_samples)',
        'core/calibration/test_calibrate.py core/calibration/test_exit_fractions.py',
    ),
    Edit(
        'core/calibration/budget.py',
        'evaluation.mean_cost <= budget]',
        'evaluation.mean_cost <= 1.05 * budget]',
        'core/calibration/test_budget.py',
    ),
    Edit(
        'core/calibration/risk_control.py',
        'np.cumsum(np.log1p(stake_PS * (max_accuracy_drop - loss_PS)), 1)',
        'np.cumsum(np.log1p(stake_PS * (max_accuracy_drop - loss_PS / 2)), 1)',
        'core/calibration/test_risk_control.py',
    ),
    Edit(
        'core/calibration/temperature.py',
        'if slope < 0 else',
        'if slope > 0 else',
        'core/calibration/test_calibrate.py',
    ),
    Edit(
        'core/deployment/folded_layers.py',
        '    weight_C1KK[:, :, kernel[0] // 2, kernel[1] // 2] += 1\n',
        '',
        'core/deployment/test_folding.py',
    ),
    Edit(
        'core/deployment/batch_norms.py',
        'return all(reader is call for reader in readers)',
        'return any(reader is call for reader in readers)',
        'core/deployment/test_batch_norms.py',
    ),
    Edit(
        'core/deployment/torch_engine.py',
        'state.split(self._samples_at_once(exit_index))',
        'state.split(max(1, self._samples_at_once(exit_index) // 2))',
        'core/deployment/test_runner.py',
    ),
    Edit(
        'core/structures.py',
        'slice(start * self.num_frames, stop * self.num_frames)',
        'slice(start, stop)',
        'core/test_structures.py',
    ),
    Edit(
        'core/models/dyn_perceiver.py',
        '        for part in self._frozen_exits():\n            part.eval()\n',
        '',
        'core/models/test_lean_form.py',
    ),
    Edit(
        'core/grafting/cuts.py',
        'if last_use[other] > number}',
        'if last_use[other] >= number}',
        'core/grafting/test_cuts.py',
    ),
    Edit(
        'core/grafting/cached_maps.py',
        'isinstance(reader, MapReader) and reader.is_even(feature) and not lifts else feature',
        'isinstance(reader, MapReader) and not lifts else feature',
        'core/grafting/test_cached_maps.py',
    ),
    Edit(
        'core/grafting/training.py',
        '        torch.manual_seed(runner.seed + runner.epoch)\n',
        '        pass\n',
        'core/grafting/test_training.py',
    ),
)


def _left_out(top: str, folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name == '__pycache__' or (folder == top and name in LEFT_OUT)]


def find(edit: Edit, root: Path) -> tuple[Path, str]:
    """File of an edit below a repository, and its text.

    Raises:
        SystemExit: If the text to replace is not there exactly once, or tests are missing.
    """
    package, _, name = edit.file.partition('/')
    path = root / SOURCES[package] / name
    text = path.read_text(encoding='utf-8') if path.is_file() else ''
    if text.count(edit.old) != 1:
        raise SystemExit(f'{path} has {edit.old!r} {text.count(edit.old)} times instead of once; write the edit anew')
    missing = [name for name in edit.tests.split() if not (root / 'tests' / name).exists()]
    if missing:
        raise SystemExit(f'tests/{missing[0]} is missing; name the tests that should notice an edit of {edit.file}')
    return path, text


def run_tests(copy: Path, tests: str) -> tuple[bool, str]:
    """Whether tests of a copy pass, and the name of the first that does not.

    Raises:
        SystemExit: If nothing was tested.
    """
    paths = os.pathsep.join(map(str, sorted((copy / 'packages').glob('*/src'))))
    # Compiled modules are told apart by time and size, which an edit may leave as they were.
    variables = {'PYTHONPATH': os.pathsep.join(filter(None, [paths, os.environ.get('PYTHONPATH')])), 'PYTHONDONTWRITEBYTECODE': '1'}
    command = [sys.executable, '-m', 'pytest', '-x', '-q', '-p', 'no:cacheprovider', *(f'tests/{name}' for name in tests.split())]
    result = subprocess.run(command, cwd=copy, env={**os.environ, **variables}, capture_output=True, text=True)
    if result.returncode not in (0, 1, 2):  # 2: a file of tests cannot even be imported
        raise SystemExit(f'{" ".join(command)} ended with {result.returncode}\n{result.stdout[-3000:]}{result.stderr[-3000:]}')
    failed = [line.partition(' ')[2].partition(' - ')[0] for line in result.stdout.splitlines() if line.startswith(('FAILED ', 'ERROR '))]
    return result.returncode == 0, failed[0] if failed else ''


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', type=int, nargs='+', metavar='NUMBER', help='numbers of the edits to make, from 1')
    parser.add_argument('--check', action='store_true', help='only check that every edit fits the code')
    parser.add_argument('--repository', type=Path, default=ROOT, metavar='DIR', help='what to test, for example an earlier state of this')
    args = parser.parse_args()
    chosen = [(number, edit) for number, edit in enumerate(EDITS, 1) if args.only is None or number in args.only]
    for _, edit in chosen:
        find(edit, args.repository)
    if args.check:
        print(f'{len(chosen)} edits fit')
        return 0
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / 'repository'
        shutil.copytree(args.repository, copy, ignore=partial(_left_out, str(args.repository)))
        for tests in sorted({edit.tests for _, edit in chosen}):
            passed, failed = run_tests(copy, tests)
            if not passed:
                raise SystemExit(f'{failed} fails without any edit; mend that first')
        for number, edit in chosen:
            path, text = find(edit, copy)
            path.write_text(text.replace(edit.old, edit.new), encoding='utf-8')
            start = time.monotonic()
            survived, failed = run_tests(copy, edit.tests)
            path.write_text(text, encoding='utf-8')
            survivors += [number] * survived
            verdict = 'SURVIVED' if survived else f'caught by {failed}'
            print(f'{number:>3} {edit.file}: {edit.old.strip()[:60]!r}: {verdict} ({time.monotonic() - start:.0f} s)', flush=True)
    print(f'{len(chosen) - len(survivors)} of {len(chosen)} edits caught' + f'; survivors: {survivors}' * bool(survivors))
    return bool(survivors)


if __name__ == '__main__':
    sys.exit(main())
