"""Who leaves at which exit: scores, the exit rule, policies and their files."""

from .exit_policy import NEVER, ExitPolicy
from .policy_file import PolicyError, PolicyRecord, fingerprint_of_arrays
from .scores import SCORES

__all__ = ['NEVER', 'SCORES', 'ExitPolicy', 'PolicyError', 'PolicyRecord', 'fingerprint_of_arrays']
