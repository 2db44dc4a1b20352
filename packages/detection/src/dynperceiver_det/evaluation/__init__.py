"""Scoring detections as COCO does, during training and afterwards."""

from .coco_metric import CocoMetric
from .rescoring import score_result
from .scoring import FIGURES, score_detections

__all__ = ['FIGURES', 'CocoMetric', 'score_detections', 'score_result']
