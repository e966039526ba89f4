"""DECIDE: what to train next and what to choose. The only package that knows Optuna.

The public face: `search` and `best`, what they take, give and raise.
"""

from study.config import ConfigError, StudyConfig, load_config
from study.failures import TooManyFailures
from study.pool import NothingToSelect
from study.search import SearchOutcome, search
from study.selection import Selection
from study.selector import best

__all__ = [
    "ConfigError",
    "NothingToSelect",
    "SearchOutcome",
    "Selection",
    "StudyConfig",
    "TooManyFailures",
    "best",
    "load_config",
    "search",
]
