"""Score a kept result again: python tools/eval_metric.py CONFIG RESULT.

RESULT is a .pkl that tools/test.py --out left, or a .json in the format of COCO results (a list of dicts with image_id, category_id,
bbox or segmentation, score). Only the annotations of the config's test data are needed, not its images. A .pkl is read by Python's
pickle, which can run code: open only your own.
"""

from pathlib import Path

import dynperceiver  # noqa: F401  its fixes for OpenMMLab on today's PyTorch must come first
from dynperceiver.launch import check_output, read_config, run_tool, tool_parser
from dynperceiver_det.evaluation import score_result
from dynperceiver_runtime.files import write_json


def main() -> None:
    """Parse, score, print."""
    parser = tool_parser(__doc__, config='config of the test: its test_evaluator and test data set are used')
    parser.add_argument('result', metavar='RESULT', help='.pkl of tools/test.py --out, or .json in the format of COCO')
    parser.add_argument('--iou-type', choices=['bbox', 'segm'], help='what a .json is scored by (default: told from its contents)')
    parser.add_argument('--out', metavar='FIGURES.json', type=Path, help='write the figures there, too')
    args = parser.parse_args()
    if args.out is not None:
        check_output('--out', args.out)
    cfg = read_config(args.config, args.cfg_options)
    figures = score_result(cfg, args.result, args.iou_type)
    print('\n'.join(f'{name}: {value!r}' for name, value in figures.items()) or 'no figures: test_evaluator writes files only')
    if args.out is not None:
        write_json(args.out, figures)
        print(f'{args.out}: {len(figures)} figures')


if __name__ == '__main__':
    run_tool(main)
