"""The commands that choose: best, compare."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from study.commands.console import DEFAULT_STORAGE, Json, Storage, Study, err, out, print_json
from study.criterion import Criterion
from study.statistics.selection_bias import By

if TYPE_CHECKING:
    from study.selection.result import Selection

Metric = Annotated[Criterion | None, typer.Option(help="Choose by this; default: the study's.")]
Ways = Annotated[
    By | None,
    typer.Option(help="forecast (default), or max: the highest score; else the best schedule's."),
]
Top = Annotated[int, typer.Option(min=0, help="How many schedules and runners-up to list.")]
Cost = Annotated[
    list[str] | None, typer.Option(help='Price of a mistake, "TRUE>PREDICTED=5"; else 1.')
]
Recall = Annotated[list[str] | None, typer.Option(help='Least recall, "CLASS>=0.99".')]
Reject = Annotated[
    float | None, typer.Option("--reject-cost", help="Price of leaving a photo to a person.")
]
FinalTest = Annotated[
    bool, typer.Option("--final-test", help="Score the choice on the test photos; it is counted.")
]
Augment = Annotated[
    bool | None,
    typer.Option(help="Look at each test photo and at its mirror image; default: as validated."),
]
Ensemble = Annotated[
    int | None, typer.Option(min=1, help="Average so many weights files, chosen greedily.")
]
Soup = Annotated[
    bool, typer.Option("--soup", help="Average the weights of trials that began alike.")
]
CopyTo = Annotated[Path | None, typer.Option(help="Copy the weights into this folder.")]


def best(
    study: Study = None,
    storage: Storage = DEFAULT_STORAGE,
    by: Ways = None,
    metric: Metric = None,
    top: Top = 5,
    cost: Cost = None,
    recall: Recall = None,
    reject_cost: Reject = None,
    final_test: FinalTest = False,
    augment: Augment = None,
    ensemble: Ensemble = None,
    soup: Soup = False,
    copy_to: CopyTo = None,
    as_json: Json = False,
) -> None:
    """Print the best weights of all runs, the best schedule, and how sure that is."""
    from study.selection.best import best as choose
    from study.selection.result import Asked
    from study.views.selection import print_best

    if augment is not None and not final_test:
        raise typer.BadParameter("--augment and --no-augment belong to --final-test; give it too")
    asked = Asked(by, metric, tuple(cost or ()), tuple(recall or ()), reject_cost)
    chosen = choose(study, storage=storage, asked=asked, runners_up=top)
    if not as_json:
        print_best(out, chosen, top)
    found: dict[str, Any] = {}
    if ensemble:
        found["ensemble"] = _ensemble(chosen, storage, ensemble, show=not as_json)
    if soup:
        found["soup"] = _soup(chosen, storage, copy_to, show=not as_json)
    if final_test:
        found["final_test"] = _final_test(chosen, storage, augment=augment, show=not as_json)
    if copy_to:
        found["copied_to"] = _copy(chosen, copy_to, show=not as_json)
    if as_json:
        print_json(asdict(chosen) | found)


def compare(
    first: Annotated[str, typer.Argument(help="A trial, a weights file, or a CSV of answers.")],
    second: Annotated[str, typer.Argument(help="The other one.")],
    study: Study = None,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Compare two classifiers on the same photos, and say whether luck may explain it."""
    from study.selection.compare import compare as weigh
    from study.views.selection import print_comparison

    found = weigh(first, second, study, storage=storage)
    if as_json:
        print_json(found)
    else:
        print_comparison(out, found)


def _ensemble(chosen: "Selection", storage: str, size: int, *, show: bool) -> Any:
    from study.selection.ensemble import ensemble
    from study.views.ensembles import print_ensemble

    found = ensemble(chosen.study, storage=storage, size=size)
    if show:
        print_ensemble(out, found)
    return found


def _soup(chosen: "Selection", storage: str, folder: Path | None, *, show: bool) -> Any:
    from study.selection.soup import soup
    from study.views.ensembles import print_soup

    say = partial(err.print, markup=False, highlight=False)
    found = soup(chosen.study, storage=storage, copy_to=folder or Path("chosen"), say=say)
    if show:
        print_soup(out, found)
    return found


def _final_test(chosen: "Selection", storage: str, *, augment: bool | None, show: bool) -> Any:
    from study.selection.final_test import final_test
    from study.views.selection import print_final_test

    found = final_test(chosen, storage=storage, augment=augment)
    if show:
        print_final_test(out, chosen, found)
    return found


def _copy(chosen: "Selection", folder: Path, *, show: bool) -> str:
    from study.selection.best import copy_weights

    copied = copy_weights(chosen, folder)
    if show:
        out.print(f"copied to {copied}", markup=False, soft_wrap=True)
    return str(copied)
