"""The commands that choose: best, compare."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from study.commands import console
from study.commands.console import err, out, print_json
from study.commands.parsing import OneOf, argument, command, option
from study.config.flags import Group
from study.criterion import Criterion
from study.statistics.selection_bias import By

if TYPE_CHECKING:
    from study.selection.result import Selection

    _Answer = tuple[Selection, Callable[[], None]]


@command(
    "best", "encore best", "encore best --study PHOTOS --copy-to chosen", "encore best --details"
)
@option(
    "--by",
    group=Group.CHOICE,
    type=OneOf(By),
    show_default="forecast",
    help="How to choose: by the forecast over all runs, the best schedule's mean over seeds, its "
    "lower bound, or the highest score",
)
@option(
    "--metric",
    group=Group.CHOICE,
    type=OneOf(Criterion),
    show_default="the study's",
    help="Choose by this.",
)
@option(
    "--cost",
    group=Group.CHOICE,
    multiple=True,
    metavar="TRUE>PREDICTED=PRICE",
    show_default="1 each",
    help="Price of a mistake; repeatable.",
)
@option(
    "--recall",
    group=Group.CHOICE,
    multiple=True,
    metavar="CLASS>=SHARE",
    help="Minimum recall of a class, e.g. 0.99; repeatable.",
)
@option(
    "--reject-cost",
    group=Group.CHOICE,
    type=float,
    metavar="PRICE",
    help="Price of rejecting a photo, so that a person decides.",
)
@option(
    "--ensemble",
    group=Group.CHOICE,
    type=click.IntRange(min=1),
    metavar="N",
    help="Average up to N weights files, chosen greedily.",
)
@option(
    "--soup",
    group=Group.CHOICE,
    is_flag=True,
    help="Average the weights of trials that share their first stages.",
)
@option(
    "--refit",
    group=Group.CHOICE,
    type=click.IntRange(min=1),
    is_flag=False,
    flag_value=1,
    metavar="[SEEDS]",
    help="Train the chosen schedule again, on the validation photos as well; under several seeds, "
    "the mean of their weights.",
)
@option(
    "--final-test",
    group=Group.CHOICE,
    is_flag=True,
    help="Score the choice on the test photos; each look is counted.",
)
@option(
    "--augment/--no-augment",
    group=Group.CHOICE,
    default=None,
    show_default="as validated",
    help="With --final-test, average over each photo and its mirror image.",
)
@option(
    "--unknown",
    group=Group.CHOICE,
    metavar="SHARE",
    help="With --copy-to, have `encore predict` label photos unlike the training photos as "
    "unknown, but at most (after a search in folds, about) this share of photos like those of "
    "validation, e.g. 5%.",
)
@console.study
@console.storage
@option("--details", is_flag=True, help="Also show classes, mistakes, schedules and runners-up.")
@option(
    "--top",
    type=click.IntRange(min=0),
    metavar="N",
    default=5,
    help="With --details, how many schedules and runners-up to list.",
)
@option("--copy-to", type=Path, metavar="DIR", help="Copy the weights into this folder.")
@console.as_json
def best(
    study: str | None,
    storage: str,
    by: By | None,
    metric: Criterion | None,
    top: int,
    cost: tuple[str, ...],
    recall: tuple[str, ...],
    reject_cost: float | None,
    final_test: bool,
    augment: bool | None,
    ensemble: int | None,
    soup: bool,
    refit: int | None,
    unknown: str | None,
    details: bool,
    copy_to: Path | None,
    as_json: bool,
) -> None:
    """Name the best weights of all runs, and how good they are."""
    if unknown is not None and copy_to is None:
        raise click.UsageError("--unknown belongs to --copy-to; give it too")
    if augment is not None and not final_test:
        raise click.UsageError("--augment and --no-augment belong to --final-test; give it too")
    # Compute everything before printing, so that an error is not preceded by partial output.
    found: dict[str, Any] = {}
    with err.waiting("choosing the best weights"):
        from study.selection.best import best as choose
        from study.selection.result import Asked

        chosen = choose(
            study,
            storage=storage,
            asked=Asked(by, metric, cost, recall, reject_cost),
            runners_up=top,
        )
        if ensemble:
            found["ensemble"] = _ensemble(chosen, storage, ensemble)
        if soup:
            found["soup"] = _soup(chosen, storage, copy_to)
        if copy_to:
            found["copied_to"] = _copy(chosen, copy_to, storage, unknown)
    if refit:
        found["refit"] = _refit(chosen, storage, copy_to, refit)
    if final_test:  # last, so that a look that was counted is also shown
        with err.waiting("looking at the test photos"):
            found["final_test"] = _final_test(_judged(chosen, found), storage, augment)
    if as_json:
        print_json(asdict(chosen) | found)
    else:
        priced = bool(cost or recall or reject_cost is not None)
        named = study is not None
        answers = _answers(chosen, found, priced=priced, details=details, named=named, top=top)
        _print(chosen, found, answers)


def _print(chosen: "Selection", found: dict[str, Any], answers: "Iterable[_Answer]") -> None:
    """Print what was asked for; the choice itself where nothing else was, or with --details."""
    from study.views import ensembles, selection

    if "ensemble" in found:
        ensembles.print_ensemble(out, found["ensemble"], chosen.leak_text)
    if "soup" in found:
        ensembles.print_soup(out, found["soup"], chosen.leak_text)
    for one, of_it in groupby(answers, key=itemgetter(0)):  # the file is named once
        selection.print_file(out, one)
        for _, show in of_it:
            show()
    if "copied_to" in found:
        out.print(f"copied to {found['copied_to']}", markup=False, soft_wrap=True)


def _answers(
    chosen: "Selection",
    found: dict[str, Any],
    *,
    priced: bool,
    details: bool,
    named: bool,
    top: int,
) -> "Iterator[_Answer]":
    """Yield functions that print each part of the result, and the choice it is about."""
    from study.views import selection

    judged = _judged(chosen, found)
    if "refit" in found:
        yield judged, partial(selection.print_refit, out, chosen, found["refit"])
    if "final_test" in found:
        yield judged, partial(selection.print_final_test, out, judged, found["final_test"])
    if priced:
        yield chosen, partial(selection.print_cost, out, chosen)
    if details or not (priced or found.keys() - {"copied_to"}):
        yield chosen, partial(selection.print_best, out, chosen, details=details, named=named)
        if chosen.operation and not priced:  # the study's own prices
            yield chosen, partial(selection.print_cost, out, chosen)
    if details:
        yield chosen, partial(selection.print_details, out, chosen, top)


@command("compare", "encore compare 3 12", "encore compare 3 answers.csv")
@argument("first", "A trial's number, a weights file, or a CSV of predictions.")
@argument("second", "The other classifier, given in the same way.")
@console.study
@console.storage
@console.as_json
def compare(first: str, second: str, study: str | None, storage: str, as_json: bool) -> None:
    """Test whether two classifiers differ by more than chance."""
    from study.views.selection import print_comparison

    with err.waiting("comparing"):
        from study.selection.compare import compare as weigh

        found = weigh(first, second, study, storage=storage)
    if as_json:
        print_json(found)
    else:
        print_comparison(out, found)


def _ensemble(chosen: "Selection", storage: str, size: int) -> Any:
    from study.selection.ensemble import ensemble

    return ensemble(chosen.study, storage=storage, size=size)


def _soup(chosen: "Selection", storage: str, folder: Path | None) -> Any:
    from study.selection.soup import soup

    say = partial(err.print, markup=False, highlight=False)
    return soup(chosen.study, storage=storage, copy_to=folder or Path("chosen"), say=say)


def _final_test(chosen: "Selection", storage: str, augment: bool | None) -> Any:
    from study.selection.final_test import final_test

    return final_test(chosen, storage=storage, augment=augment)


def _refit(chosen: "Selection", storage: str, folder: Path | None, seeds: int) -> Any:
    from study.deployment.refit import refit
    from study.views.progress import SearchView

    with SearchView(err) as view:
        return refit(
            chosen,
            storage=storage,
            folder=folder or Path("chosen"),
            seeds=seeds,
            listener=view,
        )


def _judged(chosen: "Selection", found: dict[str, Any]) -> "Selection":
    """Return the choice, with its refit's weights if there are any, which have no score."""
    if (made := found.get("refit")) is None:
        return chosen
    return replace(chosen, file=made.file, sha256=made.sha256, bias_corrected=None)


def _copy(chosen: "Selection", folder: Path, storage: str, unknown: str | None) -> str:
    from study.selection.best import copy_weights

    if unknown is None:
        return str(copy_weights(chosen, folder))

    from study.deployment.reference import copy_with_reference

    return str(copy_with_reference(chosen, folder, storage, unknown))
