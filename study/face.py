"""The functions of the package `encore`: the use cases, with their progress shown.

Nothing heavy is imported before it is needed: torch takes seconds.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.config.schema import StudyConfig
from study.errors import NothingToSelect
from study.events import Listener, Progress
from study.report.write import report
from study.searching.search import SearchOutcome
from study.searching.search import search as run
from study.selection.best import best
from study.selection.result import Asked, Selection

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from study.datasets.check import Checked
    from study.report.contents import Contents
    from study.report.write import Written
    from trainers.classifier import Classifier

__all__ = ["Selection", "Study", "best", "check_data", "load", "report", "search"]


@dataclass(frozen=True)
class Study(SearchOutcome):
    """The result of `search`: how it ended, and access to the study's current state.

    `study` is its name, `storage` the URL of its database.
    """

    storage: str = field(default=StudyConfig().storage, repr=False)  # may hold a password

    def best(self, *, asked: Asked | None = None, runners_up: int = 5) -> Selection:
        """Choose the best weights. Raises `NothingToSelect` before a trial has ended."""
        return best(self.study, storage=self.storage, asked=asked, runners_up=runners_up)

    def trials(self) -> "pd.DataFrame":
        """Return the trials, a row each, with the parameters of their stages (from 1)."""
        return self._frame("trials")

    def epochs(self) -> "pd.DataFrame":
        """Return the epochs of all stage runs, a row each."""
        return self._frame("epochs")

    def report(
        self, to: Path | str = "report.html", *, top: int = 12, csv: Path | None = None
    ) -> "Written":
        """Write the study as one HTML page, with the `top` worst errors; tables into `csv`."""
        return report(self.study, storage=self.storage, to=Path(to), top=top, csv=csv)

    def plot_curves(self) -> "go.Figure":
        """Draw validation loss and score by epoch, the best trials in colour."""
        from study.report.figures.curves import curves
        from study.report.inline import inline

        return inline(curves(self._contents()))

    def plot_confusion(self) -> "go.Figure":
        """Draw which classes the best weights misclassify as which."""
        from study.report.figures.confusion import confusion
        from study.report.inline import inline

        return inline(confusion(self._contents()))

    def _repr_html_(self) -> str:
        try:
            return self.best()._repr_html_()
        except NothingToSelect as error:
            from html import escape

            return f"<pre>{escape(f'{self!r}: {error}')}</pre>"

    def _frame(self, name: str) -> "pd.DataFrame":
        from study.report.tables import frames

        return frames(self._contents())[name]

    def _contents(self) -> "Contents":
        from study.report.contents import read_contents

        return read_contents(self.study, self.storage)


def search(
    config: StudyConfig | None = None,
    *,
    progress: bool = True,
    listener: Listener = lambda _: None,
    **settings: Any,
) -> Study:
    """Search schedules until the budget is spent; the same call again goes on where it was.

    Give a `StudyConfig`, or settings by the names of the command line's flags: data, trials,
    budget, study, storage, metric, repeats, finalists, ... `progress` shows the progress, in a
    terminal and in a notebook; `listener` is called with each event. Raises `ConfigError`,
    `DatasetError`, `StudyInUse`, `WeightsUnavailable`, `TooManyFailures` and the database's errors;
    nothing is written before data and settings have been checked.
    """
    if config is None:
        from study.config.loading import load_config, settings_of

        config = load_config(settings_of(**settings))
    with _shown(listener, progress=progress) as told:
        outcome = run(config, listener=told)
    known = {each.name: getattr(outcome, each.name) for each in fields(outcome)}
    return Study(**known, storage=config.storage)


def check_data(
    data: Path | str, *, progress: bool = True, listener: Listener = lambda _: None, **options: Any
) -> "Checked":
    """Look for copies, leaks between splits, doubtful labels and flaws; nothing is changed.

    `options` are those of the command `check-data`: data_root, storage, regroup, group_by,
    write_csv, remove, seed. Raises `DatasetError` and `ConfigError`.
    """
    from study.datasets.check import check_data as check

    with _shown(listener, progress=progress) as told:
        return check(str(data), listener=told, **options)


def load(file: Path | str, device: str = "cpu") -> "Classifier":
    """Make a classifier of a weights file. Runs no code from it; raises `NotOurWeights`."""
    from trainers.classifier import load as read

    return read(file, device)


@contextmanager
def _shown(listener: Listener, *, progress: bool) -> Iterator[Listener]:
    """Return a context with a listener that shows events in a notebook or a terminal."""
    from study.views.notebook import NotebookView, in_notebook
    from study.views.progress import SearchView
    from study.views.terminal import Terminal

    if not progress or not (in_notebook() or sys.stderr.isatty()):
        yield listener
        return
    # tqdm, used by other libraries, asks for a package to be installed to draw its bars.
    warnings.filterwarnings("ignore", message="IProgress not found")
    err = Terminal(emoji=False, stderr=True)
    with NotebookView() if in_notebook() else SearchView(err) as view:

        def both(told: Progress) -> None:
            view(told)
            listener(told)

        yield both
