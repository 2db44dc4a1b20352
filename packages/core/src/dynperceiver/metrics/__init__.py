"""Metrics over all exits, and of dynamic inference."""

from .collection import ExitFiguresMetric, ExitScoresMetric
from .dynamic_accuracy import DynamicAccuracy, TimedRun
from .exit_agreement import AgreementFractions, ExitAgreement, exit_agreements
from .exit_answers import AnswerCollector, ExitAnswers
from .exit_calibration import ExitCalibration, exit_calibrations, expected_calibration_error
from .multi_exit_accuracy import MultiExitAccuracy, exit_accuracies

__all__ = [
    'AgreementFractions',
    'AnswerCollector',
    'DynamicAccuracy',
    'ExitAgreement',
    'ExitAnswers',
    'ExitCalibration',
    'ExitFiguresMetric',
    'ExitScoresMetric',
    'MultiExitAccuracy',
    'TimedRun',
    'exit_accuracies',
    'exit_agreements',
    'exit_calibrations',
    'expected_calibration_error',
]
