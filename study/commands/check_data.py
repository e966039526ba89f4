"""The command that looks over photos before anything is trained on them: check-data."""

from pathlib import Path
from typing import Annotated, Any

import typer

from study.commands.console import DEFAULT_STORAGE, Json, Storage, err, out, print_json
from study.datasets.cleaned_csv import Remove
from trainers.errors import DatasetError

Data = Annotated[str, typer.Argument(help="Folder or CSV of photos; nothing in it is changed.")]
DataRoot = Annotated[str | None, typer.Option(help="Folder that a CSV's paths start from.")]
Html = Annotated[Path | None, typer.Option(help="Write a page that shows what was found.")]
WriteCsv = Annotated[Path | None, typer.Option(help="Write an amended list for `search --data`.")]
Removes = Annotated[
    list[Remove] | None,
    typer.Option(help="What that list lacks; may be repeated. Default: duplicates, conflicts."),
]
Regroup = Annotated[
    bool, typer.Option("--regroup", help="Split the photos anew, duplicates together.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of splits that are drawn, as for `search`.")]


def check_data(
    data: Data,
    data_root: DataRoot = None,
    html: Html = None,
    write_csv: WriteCsv = None,
    remove: Removes = None,
    regroup: Regroup = False,
    seed: Seed = 0,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Find duplicates, leaks between splits, doubtful labels and flawed photos."""
    if remove and not write_csv:
        raise typer.BadParameter("--remove belongs to --write-csv; give both, or neither")

    from study.datasets.check import REMOVED, refuse_inside
    from study.datasets.check import check_data as check
    from study.views.data_check import plain, print_checked
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
            write_csv=write_csv,
            remove=remove or REMOVED,
            seed=seed,
            listener=view,
        )
    found: dict[str, Any] = plain(checked)
    if html is not None:
        from study.report.check_page import write_check_page

        write_check_page(checked, html)
        found["html"] = str(html)
    if as_json:
        print_json(found)
    else:
        print_checked(out, checked, html)
    if checked.leaks:
        raise typer.Exit(DatasetError.exit_code)
