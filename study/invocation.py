"""The command line that was typed, the one to type next, and the commit of the source."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from storage.redaction import redact_word

SOURCE = Path(__file__).parents[1]
"""Encore's own folder: a git checkout's, or that of installed packages."""

FROM_PYTHON = "search(...)"
"""The command of a search that is started from Python, by the user's own program or a notebook."""

_SOURCES = ("cli.py", "study", "storage", "trainers")
_PROGRAMS = ("cli.py", "encore", "encore.exe")
_PATIENCE = 5.0
"""Seconds that git gets; a file system that hangs must not keep a search from beginning."""


def hint(*words: object) -> str:
    """Return a command of ours to type next, `encore show 3`, quoted so that it can be pasted.

    Where a checkout's `cli.py` is being run, the command is run in the same way.
    """
    ran = sys.argv[0] if sys.argv else ""
    program = [Path(sys.orig_argv[0]).name, ran] if Path(ran).name == "cli.py" else ["encore"]
    return typed([*program, *map(str, words)])


def searched_by() -> dict[str, str]:
    """Return the command line of a search, and the commit of Encore's source if it has one."""
    found = commit(SOURCE)
    return {"command": command_line(sys.argv, sys.orig_argv)} | ({"commit": found} if found else {})


def command_line(words: Sequence[str], all_words: Sequence[str]) -> str:
    """Return the command that was typed, fit for a shell, without the passwords of databases.

    `words` and `all_words` are `sys.argv` and `sys.orig_argv`, which knows the interpreter, too.
    """
    if not words or Path(words[0]).name not in _PROGRAMS:
        return FROM_PYTHON
    return typed(all_words)


def typed(words: Sequence[str]) -> str:
    """Return a command as it can be typed, without passwords: others get to read it."""
    return shlex.join(map(redact_word, words))


@cache
def commit(folder: Path) -> str:
    """Return the git commit that is checked out in a folder, with "+changes" if its source differs.

    Nothing where there is no git, or the folder is no checkout but lies in one.
    """
    git = shutil.which("git")
    if git is None or not (folder / ".git").exists():
        return ""
    # A git that runs us, as for a hook, would have its variables lead to its own repository.
    environment = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
    question = ["status", "--porcelain=v2", "--branch", "--", *_SOURCES]
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and no word of it is anybody's input
            [git, "--no-optional-locks", "-C", str(folder), *question],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
            timeout=_PATIENCE,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit_of(done.stdout)


def commit_of(status: str) -> str:
    """Read the commit from what `git status --porcelain=v2 --branch` says."""
    mark, lines = "# branch.oid ", status.splitlines()
    found = next((line.removeprefix(mark) for line in lines if line.startswith(mark)), "")
    if not found or found.startswith("("):  # "(initial)": nothing has been committed yet
        return ""
    return found + ("+changes" if any(not line.startswith("#") for line in lines) else "")
