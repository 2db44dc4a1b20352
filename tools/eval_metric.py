"""Score a kept result again: python tools/eval_metric.py CONFIG RESULT.

RESULT is a .pkl that tools/test.py --out left, or a .json in the format of COCO results (a list of dicts with image_id, category_id,
bbox or segmentation, score). Only the annotations of the config's test data are needed, not its images. A .pkl is read by Python's
pickle, which can run code: open only your own.
"""

import argparse
import json
from pathlib import Path

from mmengine.config import DictAction

import dynperceiver  # noqa: F401  its fixes for OpenMMLab on today's PyTorch must come first
from dynperceiver.launch import read_config, run_tool
from dynperceiver_det.evaluation import score_result


def main() -> None:
    """Parse, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of the test: its test_evaluator and test data set are used')
    parser.add_argument('result', metavar='RESULT', help='.pkl of tools/test.py --out, or .json in the format of COCO')
    parser.add_argument('--iou-type', choices=['bbox', 'segm'], help='what a .json is scored by (default: told from its contents)')
    parser.add_argument('--out', metavar='FIGURES.json', type=Path, help='write the figures there, too')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='settings to override')
    args = parser.parse_args()
    if args.out is not None and not args.out.absolute().parent.is_dir():
        parser.error(f'--out {args.out}: its folder is missing; make it first')
    cfg = read_config(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    figures = score_result(cfg, args.result, args.iou_type)
    print('\n'.join(f'{name}: {value!r}' for name, value in figures.items()) or 'no figures: test_evaluator writes files only')
    if args.out is not None:
        args.out.write_text(json.dumps(figures, indent=2) + '\n')
        print(f'{args.out}: {len(figures)} figures')


if __name__ == '__main__':
    run_tool(main)
