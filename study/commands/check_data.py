"""The command that checks photos before training: check-data."""

from pathlib import Path
from typing import Any

import click

from study.commands import console
from study.commands.console import err, out, print_json
from study.commands.parsing import OneOf, argument, command, option
from study.config.flags import Group
from study.datasets.cleaned_csv import Remove
from trainers.errors import DatasetError


@command(
    "check-data",
    "encore check-data PHOTOS",
    "encore check-data PHOTOS --html check.html",
    "encore check-data PHOTOS --write-csv cleaned.csv",
)
@argument("data", "Folder or CSV of photos; nothing in it is changed.", metavar="PHOTOS")
@option(
    "--data-root",
    group=Group.DATA,
    metavar="DIR",
    show_default="the CSV's own",
    help="Folder that the paths of a CSV start from.",
)
@option(
    "--regroup",
    group=Group.DATA,
    is_flag=True,
    help="Split the photos again, keeping copies of one photo together.",
)
@option(
    "--group-by",
    group=Group.DATA,
    metavar="REGEX",
    show_default="the CSV's column group, if there is one",
    help="How photos are grouped, as for `search`: a REGEX for paths, or exif-time:60s.",
)
@option(
    "--seed",
    group=Group.DATA,
    type=click.IntRange(min=0),
    metavar="N",
    default=0,
    help="Seed of splits that are drawn, as for `search`.",
)
@console.storage
@option("--html", type=Path, metavar="FILE", help="Write a page that shows what was found.")
@option("--write-csv", type=Path, metavar="FILE", help="Write a cleaned CSV for `search --data`.")
@option(
    "--remove",
    multiple=True,
    type=OneOf(Remove),
    show_default="duplicates, conflicts",
    help="What to remove from that CSV; repeatable.",
)
@console.as_json
def check_data(
    data: str,
    data_root: str | None,
    html: Path | None,
    write_csv: Path | None,
    remove: tuple[Remove, ...],
    regroup: bool,
    group_by: str | None,
    seed: int,
    storage: str,
    as_json: bool,
) -> None:
    """Find copies, leaks between splits, doubtful labels, flaws."""
    if remove and not write_csv:
        raise click.UsageError("--remove belongs to --write-csv; give both, or neither")

    with err.waiting("loading"):
        from study.datasets.check import REMOVED, refuse_inside
        from study.datasets.check import check_data as check
        from study.views.data_check import checked_document, print_checked
        from study.views.progress import SearchView

    for file in (html, write_csv):
        if file is not None:
            refuse_inside(file, Path(data))
    with SearchView(err) as view:
        checked = check(
            data,
            data_root=data_root,
            storage=storage,
            regroup=regroup,
            group_by=group_by,
            write_csv=write_csv,
            remove=remove or REMOVED,
            seed=seed,
            listener=view,
        )
    found: dict[str, Any] = checked_document(checked)
    if html is not None:
        from study.report.check_page import write_check_page

        write_check_page(checked, html)
        found["html"] = str(html)
    if as_json:
        print_json(found)
    else:
        print_checked(out, checked, html)
    if checked.leaks:
        raise click.exceptions.Exit(DatasetError.exit_code)
