"""The command that classifies photos: predict."""

import sys
from pathlib import Path

import click

from study.commands import console
from study.commands.console import err, out, print_json
from study.commands.exit_codes import FAILED
from study.commands.parsing import argument, command, option
from study.config.flags import Group


@command(
    "predict",
    "encore predict photo.jpg",
    "encore predict PHOTOS --csv > answers.csv",
    "find PHOTOS -name '*.jpg' | encore predict -",
)
@argument(
    "inputs",
    "Photos, folders, quoted patterns; - reads paths from stdin, one a line.",
    metavar="PHOTO...",
    nargs=-1,
    required=True,
)
@console.weights
@option(
    "--augment/--no-augment",
    group=Group.CHOICE,
    default=None,
    show_default="as validated",
    help="Average over each photo and its mirror image.",
)
@option(
    "--prior",
    group=Group.CHOICE,
    multiple=True,
    metavar="CLASS=SHARE",
    show_default="as in training",
    help="Share of a class, or of photos with a label, among these photos; repeatable.",
)
@option(
    "--unknown",
    group=Group.CHOICE,
    metavar="SHARE",
    show_default="as the weights carry it",
    help="Label photos unlike the training photos as unknown, but at most (after a search in "
    "folds, about) this share of photos like those of validation, e.g. 5%; 0% for none.",
)
@option(
    "--coverage",
    group=Group.CHOICE,
    metavar="SHARE",
    help="Also give a set of classes that contains the true one for this share of photos, e.g. "
    "90%; of several labels, this share of a photo's labels on average.",
)
@console.device
@console.study
@console.storage
@console.as_json
@option("--csv", "as_csv", is_flag=True, help="CSV on stdout, nothing else.")
def predict(
    inputs: tuple[str, ...],
    weights: Path | None,
    study: str | None,
    storage: str,
    device: str,
    augment: bool | None,
    prior: tuple[str, ...],
    unknown: str | None,
    coverage: str | None,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Predict the class of photos with the best weights."""
    if as_json and as_csv:
        raise click.UsageError("give --json or --csv, not both")
    if weights and study:
        raise click.UsageError("give --weights or --study, not both")

    from study.views.predictions import Tally, print_table, write_csv

    with err.waiting("loading the network"):
        from study.deployment.predict import predict as run
        from study.deployment.reference import share_of

        found = run(
            inputs,
            weights=weights,
            study=study,
            storage=storage,
            device=device,
            augment=augment,
            prior=prior,
            unknown=share_of("--unknown", unknown),
            coverage=share_of("--coverage", coverage),
        )
    tally = Tally(err, found)
    if as_json:
        answers = list(tally.predictions())
        told = ("weights", "classes", "rule", "stated", "several", "thresholds")
        about = {name: getattr(found, name) for name in told}
        print_json({**about, "predictions": answers, "unreadable": tally.unreadable})
    elif as_csv:
        write_csv(sys.stdout, found, tally.predictions())
    else:
        print_table(out, found, tally.predictions())
    tally.print_summary()
    if tally.unreadable:
        raise click.exceptions.Exit(FAILED)
