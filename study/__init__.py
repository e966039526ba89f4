"""DECIDE: what to train next and what to choose. The only package that knows Optuna.

The public face: `search` and `best`, what they take, give and raise.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from study.config.loading import load_config
    from study.config.schema import StudyConfig
    from study.errors import ConfigError, NothingToSelect, TooManyFailures
    from study.searching.search import SearchOutcome, search
    from study.selection.best import best
    from study.selection.result import Selection

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
    "ConfigError": "errors",
    "NothingToSelect": "errors",
    "SearchOutcome": "searching.search",
    "Selection": "selection.result",
    "StudyConfig": "config.schema",
    "TooManyFailures": "errors",
    "best": "selection.best",
    "load_config": "config.loading",
    "search": "searching.search",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, and no more: `--help` need not wait for a database's library."""
    if name not in _HOME:
        raise AttributeError(f"module 'study' has no attribute {name!r}")
    return getattr(import_module(f"study.{_HOME[name]}"), name)
