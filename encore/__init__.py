"""Run it again, keep the best: search training-loop schedules for image classification.

    import encore

    study = encore.search(data="PHOTOS", trials=50)
    study.best()

`check_data` looks over photos, `search` trains, `best` chooses, `report` writes a page, and `load`
makes a classifier of a weights file.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

_HERE = Path(__file__).parent
if not (_HERE / "_packages").is_dir() and str(_HERE.parent) not in sys.path:
    # A checkout, perhaps installed as editable: the packages lie beside this one. First, since
    # an installed distribution may have one of their names.
    sys.path.insert(0, str(_HERE.parent))

if TYPE_CHECKING:
    from study.face import Selection, Study, best, check_data, load, report, search

__all__ = ["Selection", "Study", "best", "check_data", "load", "report", "search"]


def __getattr__(name: str) -> Any:
    """Import what is asked for, and no more: torch takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module 'encore' has no attribute {name!r}")
    from study import face

    return getattr(face, name)


def __dir__() -> list[str]:
    """List what is meant to be used."""
    return __all__
