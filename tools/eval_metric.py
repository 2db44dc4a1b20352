"""Evaluate saved detections: python tools/eval_metric.py CONFIG RESULT.

RESULT is a .pkl file saved by tools/test.py --out, or a .json file in the format of COCO results (a list of dicts with image_id,
category_id, bbox or segmentation, score). The annotations of the config's test set are needed, its images are not. Reading a .pkl file
can run code: open only files that you trust.
"""

from pathlib import Path

import dynperceiver  # noqa: F401  its fixes for OpenMMLab on today's PyTorch must come first
from dynperceiver.launch import check_output, read_config, run_tool, tool_parser
from dynperceiver_det.evaluation import score_result
from dynperceiver_runtime.files import write_json


def main() -> None:
    """Parse, score, print."""
    parser = tool_parser(__doc__, config='config of the test, with its test_evaluator and test set')
    parser.add_argument('result', metavar='RESULT', help='.pkl saved by tools/test.py --out, or .json in the format of COCO results')
    parser.add_argument('--iou-type', choices=['bbox', 'segm'], help='IoU type of a .json file (default: found from its contents)')
    parser.add_argument('--out', metavar='FIGURES.json', type=Path, help='also save the metrics to this file')
    args = parser.parse_args()
    if args.out is not None:
        check_output('--out', args.out)
    cfg = read_config(args.config, args.cfg_options)
    figures = score_result(cfg, args.result, args.iou_type)
    lines = [f'{name}: {value!r}' for name, value in figures.items()]
    print('\n'.join(lines) or 'no metrics: the test_evaluator of the config only writes files')
    if args.out is not None:
        write_json(args.out, figures)
        print(f'{len(figures)} metrics saved to {args.out}')


if __name__ == '__main__':
    run_tool(main)
