"""Make docs/transcripts.md: what commands print at 80 and 120 columns, of a real search.

Run from the repository's root:

    python -m docs.transcripts --data PHOTOS

It searches in a terminal of tmux, which it takes, and then runs the other commands.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDTHS = {80: "search --data photos --trials 2", 120: "search --data photos --trials 3"}
"""At each width in turn the search goes on: with the two probes, then with a network."""

SESSION = "encore-transcripts"
LIVE = 25
"""After so many seconds a picture is taken of the search while it runs."""

COMMANDS = (
    "best",
    "best --details --top 3",
    "ls",
    "show 1",
    "tree",
    "compare 0 1",
    "doctor",
    "check-data photos",
)
PIPED = ("best", "ls", "tree")


def main() -> None:
    """Search, run the commands, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "transcripts")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "transcripts.md")
    given = parser.parse_args()
    parts = [HEAD]
    work = prepared(given.work.resolve(), given.data.resolve())
    for width, search in WIDTHS.items():
        parts.append(f"\n## {width} columns\n")
        parts += [shown(search, text) for text in seen(work, search, width, LIVE)]
        parts += [shown(words, seen(work, words, width)[-1]) for words in COMMANDS]
    parts.append("\n## Piped\n\nA record is a line, however long.\n")
    parts += [shown(words, piped(work, words)) for words in PIPED]
    given.to.write_text("".join(parts), encoding="utf-8")


def prepared(work: Path, data: Path) -> Path:
    """Return an empty folder with a program `encore`, and the photos under a name of their own."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / "photos").symlink_to(data, target_is_directory=True)  # pages name no folder from here
    program = work / "encore"
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[0] = 'encore'"
    start += "; import cli; sys.exit(cli.run(sys.argv[1:]))"
    program.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-c", start])} "$@"\n')
    program.chmod(0o755)
    return work


HEAD = """# What commands print

Real output at 80 and 120 columns: a small search of 120 photos, while it runs and at its end,
and what is asked about it. `python -m docs.transcripts --data PHOTOS` makes this page anew.
"""


def shown(words: str, text: str) -> str:
    """Return a section of the page."""
    return f"\n```console\n$ encore {words}\n{text}\n```\n"


def seen(work: Path, words: str, width: int, live: float = 0.0) -> list[str]:
    """Run a command in a terminal; return what it shows at its end, and before that at `live` s."""
    done = work / "done"
    done.unlink(missing_ok=True)
    line = f"clear; PATH=.:$PATH encore {words}; touch done; sleep 600"
    size = ["-x", str(width), "-y", "200"]
    tmux("new-session", "-d", "-s", SESSION, *size, "-c", str(work), "sh", "-c", line)
    try:
        began, shots = time.time(), []
        while not done.exists():
            time.sleep(0.5)
            if live and not shots and time.time() - began > live:
                shots.append(screen(work))
        return [*shots, screen(work)]
    finally:
        tmux("kill-session", "-t", SESSION)


def screen(work: Path) -> str:
    """Return what the terminal shows."""
    text = tmux("capture-pane", "-p", "-t", SESSION)
    lines = (line.rstrip() for line in text.replace(str(work.resolve()) + "/", "").splitlines())
    return "\n".join(lines).strip("\n")


def piped(work: Path, words: str) -> str:
    """Return what a command prints into a pipe."""
    environment = os.environ | {"PATH": f".:{os.environ['PATH']}"}
    done = subprocess.run(  # noqa: S603 - our own program
        ["./encore", *shlex.split(words)],
        cwd=work, check=True, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    return done.stdout.strip("\n")


def tmux(*words: str) -> str:
    """Run tmux on a server of its own."""
    return subprocess.run(  # noqa: S603
        ["tmux", "-L", SESSION, "-f", "/dev/null", *words],  # noqa: S607
        check=True, stdout=subprocess.PIPE, text=True,
    ).stdout  # fmt: skip


if __name__ == "__main__":
    main()
