"""The command that writes a study as a page: report."""

import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.commands.console import DEFAULT_STORAGE, Json, Storage, Study, err, out, print_json

if TYPE_CHECKING:
    from study.report.write import Written

To = Annotated[Path, typer.Option(help="File to write; what it held is replaced.", metavar="FILE")]
Open = Annotated[bool, typer.Option("--open", help="Open it in the browser.")]
Watch = Annotated[bool, typer.Option("--watch", help="Write it anew as the search goes on.")]
Csv = Annotated[
    Path | None,
    typer.Option("--csv", help="Write tables into this folder, too.", metavar="DIR"),
]
Top = Annotated[int, typer.Option(min=0, max=100, help="How many of the worst errors to show.")]


def report(
    study: Study = None,
    storage: Storage = DEFAULT_STORAGE,
    to: To = Path("report.html"),
    open_it: Open = False,
    watch: Watch = False,
    csv: Csv = None,
    top: Top = 12,
    as_json: Json = False,
) -> None:
    """Write a study as one HTML page: curves, classes, worst errors, what it cost."""
    if watch and as_json:
        raise typer.BadParameter("give --watch or --json, not both")

    from study.report.write import report as write
    from study.report.write import watch as keep_writing

    if not watch:
        done = write(study, storage=storage, to=to, top=top, csv=csv)
        if as_json:
            print_json(asdict(done))
        else:
            for file in (done.file, *done.csv):
                out.print(file, markup=False, highlight=False, soft_wrap=True)
        if open_it:
            _open(to)
        return

    opened = not open_it

    def tell(done: "Written") -> None:
        nonlocal opened
        err.print(f"{done.file} (Ctrl-C ends)", markup=False, highlight=False, soft_wrap=True)
        if not opened:
            opened = True
            _open(to)

    keep_writing(study, storage=storage, to=to, top=top, csv=csv, written=tell)


def _open(file: Path) -> None:
    if not webbrowser.open(file.absolute().as_uri()):
        err.print("no browser was found; open the file in one", highlight=False)
