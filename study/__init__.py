"""DECIDE: what to train next and what to choose. The only package that knows Optuna.

The public face: `search` and `best`, what they take, give and raise.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from study.config import ConfigError, StudyConfig
    from study.failures import TooManyFailures
    from study.pool import NothingToSelect
    from study.searching import SearchOutcome, search
    from study.selection import Selection
    from study.selector import best
    from study.settings import load_config

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

_HOME = {
    "ConfigError": "config",
    "NothingToSelect": "pool",
    "SearchOutcome": "searching",
    "Selection": "selection",
    "StudyConfig": "config",
    "TooManyFailures": "failures",
    "best": "selector",
    "load_config": "settings",
    "search": "searching",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, and no more: `--help` need not wait for a database's library."""
    if name not in _HOME:
        raise AttributeError(f"module 'study' has no attribute {name!r}")
    return getattr(import_module(f"study.{_HOME[name]}"), name)
