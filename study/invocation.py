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
"""The command recorded for a search that is started from Python, by a program or a notebook."""

_SOURCES = ("cli.py", "study", "storage", "trainers")
_PROGRAMS = ("cli.py", "encore", "encore.exe")
_PATIENCE = 5.0
"""Timeout of git in seconds; a file system that hangs must not keep a search from beginning."""


def hint(*words: object) -> str:
    """Return a command to suggest, such as `encore show 3`, quoted so that it can be pasted.

    If a checkout's `cli.py` is being run, the command uses it as well.
    """
    ran = sys.argv[0] if sys.argv else ""
    program = [Path(sys.orig_argv[0]).name, ran] if Path(ran).name == "cli.py" else ["encore"]
    return typed([*program, *map(str, words)])


def searched_by() -> dict[str, str]:
    """Return the command line of a search, and the commit of Encore's source if it has one."""
    found = commit(SOURCE)
    return {"command": command_line(sys.argv, sys.orig_argv)} | ({"commit": found} if found else {})


def command_line(words: Sequence[str], all_words: Sequence[str]) -> str:
    """Return the command that was typed, quoted for a shell, without the passwords of databases.

    `words` and `all_words` are `sys.argv` and `sys.orig_argv`, which includes the interpreter.
    """
    if not words or Path(words[0]).name not in _PROGRAMS:
        return FROM_PYTHON
    return typed(all_words)


def typed(words: Sequence[str]) -> str:
    """Return a command as it can be typed, without passwords, as others may read it."""
    return shlex.join(map(redact_word, words))


@cache
def commit(folder: Path) -> str:
    """Return the git commit that is checked out in a folder, with "+changes" if its source differs.

    None if there is no git, or the folder is not the root of a checkout.
    """
    git = shutil.which("git")
    if git is None or not (folder / ".git").exists():
        return ""
    # If git itself runs us, as in a hook, its variables would point to another repository.
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
    """Read the commit from the output of `git status --porcelain=v2 --branch`."""
    mark, lines = "# branch.oid ", status.splitlines()
    found = next((line.removeprefix(mark) for line in lines if line.startswith(mark)), "")
    if not found or found.startswith("("):  # "(initial)": nothing has been committed yet
        return ""
    return found + ("+changes" if any(not line.startswith("#") for line in lines) else "")
