"""Who leaves at which exit: scores, the exit rule, policies and their files."""

from .exit_policy import ExitPolicy
from .exit_rule import first_exit
from .policy_file import PolicyError, PolicyRecord, fingerprint_of_arrays
from .scores import SCORES, log_odds, to_log_odds, to_probability
from .thresholds import NEVER

__all__ = [
    'NEVER',
    'SCORES',
    'ExitPolicy',
    'PolicyError',
    'PolicyRecord',
    'fingerprint_of_arrays',
    'first_exit',
    'log_odds',
    'to_log_odds',
    'to_probability',
]
