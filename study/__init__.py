"""DECIDE: what to train next and what to choose. The only package that knows Optuna.

The public interface: `search`, `best` and the other use cases, with their arguments, results and
errors.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from study.config.loading import load_config
    from study.config.schema import StudyConfig
    from study.errors import ConfigError, NothingToSelect, TooManyFailures
    from study.face import Study, check_data, load, search
    from study.searching.search import SearchOutcome
    from study.selection.best import best
    from study.selection.result import Selection

_HOME = {
    "ConfigError": "errors",
    "NothingToSelect": "errors",
    "SearchOutcome": "searching.search",
    "Selection": "selection.result",
    "Study": "face",
    "StudyConfig": "config.schema",
    "TooManyFailures": "errors",
    "best": "selection.best",
    "check_data": "face",
    "load": "face",
    "load_config": "config.loading",
    "search": "face",
}

__all__ = [
    "ConfigError",
    "NothingToSelect",
    "SearchOutcome",
    "Selection",
    "Study",
    "StudyConfig",
    "TooManyFailures",
    "best",
    "check_data",
    "load",
    "load_config",
    "search",
]


def __getattr__(name: str) -> Any:
    """Import only the name that is asked for, so that `--help` does not wait for SQLAlchemy."""
    if name not in _HOME:
        raise AttributeError(f"module 'study' has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
