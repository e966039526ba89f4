"""The command that writes a study as a page: report."""

import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from study.commands import console
from study.commands.console import err, out, print_json
from study.commands.parsing import command, option

if TYPE_CHECKING:
    from study.report.write import Written


@command("report", "encore report --open", "encore report --study PHOTOS --to photos.html")
@console.study
@console.storage
@option(
    "--to",
    type=Path,
    metavar="FILE",
    default=Path("report.html"),
    help="File to write; an existing one is replaced.",
)
@option("--open", "open_it", is_flag=True, help="Open it in the browser.")
@option("--watch", is_flag=True, help="Rewrite it as the search goes on.")
@option("--csv", type=Path, metavar="DIR", help="Also write tables (CSV) into this folder.")
@option(
    "--top",
    type=click.IntRange(min=0, max=100),
    metavar="N",
    default=12,
    help="How many of the worst errors to show.",
)
@console.as_json
def report(
    study: str | None,
    storage: str,
    to: Path,
    open_it: bool,
    watch: bool,
    csv: Path | None,
    top: int,
    as_json: bool,
) -> None:
    """Write a study as one HTML page."""
    if watch and as_json:
        raise click.UsageError("give --watch or --json, not both")

    if not watch:
        with err.waiting("writing the report"):
            from study.report.write import report as write

            done = write(study, storage=storage, to=to, top=top, csv=csv)
        if as_json:
            print_json(asdict(done))
        else:
            for file in (done.file, *done.csv):
                out.print(file, markup=False, highlight=False, soft_wrap=True)
        if open_it:
            _open(to)
        return

    from study.report.write import watch as keep_writing

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
