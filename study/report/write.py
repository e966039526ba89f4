"""Use case `report`: a study as one page, written once or repeatedly during a search."""

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from storage.database import open_database
from storage.redaction import redact
from storage.store import Store
from study.config.schema import StudyConfig
from study.errors import ConfigError
from study.invocation import FROM_PYTHON
from study.report.contents import Contents, read_contents
from study.report.markup import write_page
from study.report.page import Report, render
from study.report.panels import panels
from study.report.pictures import pictures
from study.report.worst_errors import ExplainedErrors, Explainer
from study.studies import find_study

MOST_ERRORS = 100
"""With more photos and heat maps, a page would be too large."""

RELOAD, POLL = 15, 5.0
"""Seconds between two reloads of a watched page, and between two checks of the study."""


@dataclass(frozen=True)
class Written:
    """The files that `report` has written: the page, and CSV files if requested."""

    file: str
    csv: tuple[str, ...] = ()


def report(
    study: str | None = None,
    *,
    storage: str = StudyConfig().storage,
    to: Path = Path("report.html"),
    top: int = 12,
    csv: Path | None = None,
) -> Written:
    """Write a study (by default the one used last) as a page, however far its search has come.

    The `top` worst errors are shown with their heat maps. Tables are written to the folder `csv`.
    Raises `StudyNotFound`, `ConfigError` and OSError.
    """
    _check(to, top)
    composed = compose(study, storage, top)
    write_page(render(composed), to)
    return Written(str(to), _write_csv(composed.contents, csv))


def watch(
    study: str | None = None,
    *,
    storage: str = StudyConfig().storage,
    to: Path = Path("report.html"),
    top: int = 12,
    csv: Path | None = None,
    written: Callable[[Written], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Write the page whenever the study has changed, until `stop` or Ctrl-C.

    The page reloads itself until watching ends. `written` is called after each writing. Raises what
    `report` raises.
    """
    _check(to, top)
    store = Store(open_database(storage, create=False))
    composed: Report | None = None
    try:
        # Another study may become the one used last: keep this one.
        name = find_study(store, study).name
        seen = None
        while not stop():
            now = _pulse(store, name)
            if now != seen:
                composed = replace(compose(name, storage, top, composed), reload=RELOAD)
                write_page(render(composed), to)
                seen = now
                written(Written(str(to), _write_csv(composed.contents, csv)))
            time.sleep(POLL)
    except KeyboardInterrupt:
        if composed is None:
            raise
    finally:
        store.close()
        if composed is not None:
            write_page(render(replace(composed, reload=None)), to)


def compose(study: str | None, storage: str, top: int, earlier: Report | None = None) -> Report:
    """Read a study and make the contents of its page.

    Heat maps are taken from an `earlier` report if it has the same winner.
    """
    with Explainer() as explainer:
        if earlier is None:
            explainer.start()
        contents = read_contents(study, storage)
        same = earlier is not None and _winner(earlier.contents) == _winner(contents)
        if not same:
            explainer.ask(contents, top)
        drawn = panels(contents)
        seen = pictures(contents, drawn["confusion"].data or (), top)
        explanation = earlier.explanation if earlier and same else explainer.answer()
    return Report(
        contents=contents,
        panels=drawn,
        pictures=seen,
        explanation=explanation,
        next_commands=_next(contents, storage),
        commands=_commands(contents, explanation, storage),
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        top=top,
    )


def _check(to: Path, top: int) -> None:
    if not 0 <= top <= MOST_ERRORS:
        raise ConfigError(f"top must be 0 to {MOST_ERRORS} photos, got {top}")
    if to.is_dir():
        raise IsADirectoryError(f"{str(to)!r} is a folder; name a file for the report")


def _pulse(store: Store, name: str) -> tuple[object, ...]:
    """Return a value that changes whenever the study does, and is cheap to read."""
    record = store.study(name)
    running = tuple(trial.number for trial in store.running_trials(record.id))
    return store.count_trials(record.id), running, store.seconds_of_epochs(record.id)


def _winner(contents: Contents) -> tuple[str, ...]:
    chosen = contents.selection
    return (chosen.file, chosen.sha256) if chosen else (contents.unselected,)


def _write_csv(contents: Contents, folder: Path | None) -> tuple[str, ...]:
    if folder is None:
        return ()
    from study.report.tables import frames, write_csvs  # pandas: half a second

    return tuple(str(file) for file in write_csvs(frames(contents), folder))


def _where(contents: Contents, storage: str) -> list[str]:
    where = ["--study", contents.study.name]
    return where if storage == StudyConfig().storage else [*where, "--storage", redact(storage)]


def _next(contents: Contents, storage: str) -> dict[str, str]:
    """Return the commands that use the winner, by description."""
    where = _where(contents, storage)
    asked = {
        "Predict photos with it": ["predict", "PHOTOS"],
        "Train it again, on the validation photos as well": ["best", "--refit", "3"],
        "Export it for other programs": ["export", "--to", "exported"],
        "Score it on the test photos, once all is decided": ["best", "--final-test"],
    }
    return {what: shlex.join(["encore", *words, *where]) for what, words in asked.items()}


def _commands(contents: Contents, explanation: ExplainedErrors, storage: str) -> dict[str, str]:
    """Return the commands that reproduce this study, by description."""
    where = _where(contents, storage)
    found = {}
    if (typed := explanation.made_by.get("command", FROM_PYTHON)) != FROM_PYTHON:
        found["The search that trained it"] = typed
    if contents.selection is not None:
        number = str(contents.selection.trial)
        found["Train the winner again, and compare"] = shlex.join(
            ["encore", "reproduce", "--run", number, *where]
        )
        found["Choose again"] = shlex.join(["encore", "best", *where])
    found["Write this page again"] = shlex.join(["encore", "report", *where])
    return found
