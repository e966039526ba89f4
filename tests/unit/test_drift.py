"""What weights files tell of who searched, and how that is compared with now."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from study.invocation import command_line, commit, commit_of, hint, searched_by
from study.provenance.drift import Drift, drift_between

OID = "# branch.oid 56f3d37d\n# branch.head main\n"


def git(folder: Path, *words: str) -> str:
    """Run git in a folder, under a name of its own."""
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(
        ["git", *who, "-C", str(folder), *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a repository that holds a source of one line."""
    git(tmp_path, "init", "-q")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "a.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "begin")
    commit.cache_clear()
    return tmp_path


def test_a_command_is_what_a_shell_would_take() -> None:
    """The interpreter is part of it, and words with spaces are quoted."""
    words = ["cli.py", "search", "--data", "my photos"]
    assert command_line(words, ["python", *words]) == "python cli.py search --data 'my photos'"
    installed = ["/venv/bin/encore", "search"]
    assert command_line(installed, ["/venv/bin/python", *installed]).endswith("bin/encore search")


def test_a_hint_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is `encore`, or the checkout's script as it is being run; odd words are quoted."""
    monkeypatch.setattr(sys, "argv", ["/venv/bin/encore", "search"])
    assert hint("show", 3, "--study", "my 'own'") == """encore show 3 --study 'my '"'"'own'"'"''"""
    monkeypatch.setattr(sys, "argv", ["../my code/cli.py", "search"])
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3", "../my code/cli.py", "search"])
    assert hint("best") == "python3 '../my code/cli.py' best"


@pytest.mark.parametrize("glue", [" ", "="])
def test_a_password_is_not_told(glue: str) -> None:
    """Weights files are passed on; their readers must not get into the database."""
    words = f"cli.py search --storage{glue}postgresql://me:pass@word@host/encore".split(" ")
    said = command_line(words, ["python", *words])
    assert "pass" not in said
    assert "word" not in said
    assert "me:***@host/encore" in said


@pytest.mark.parametrize("words", [[], ["mine.py", "--secret", "x"], ["/pytest/__main__.py"]])
def test_who_searches_from_python_has_no_command(words: list[str]) -> None:
    """The arguments of another program are not recorded."""
    assert command_line(words, ["python", *words]) == "search(...)"


def test_a_commit_is_read_with_its_changes() -> None:
    """A line that is no header is a change; without a commit there is nothing to tell."""
    assert commit_of(OID) == "56f3d37d"
    assert commit_of(OID + "1 .M N... 100644 100644 100644 e e study/a.py\n") == "56f3d37d+changes"
    assert commit_of(OID + "? study/new.py\n") == "56f3d37d+changes"
    assert commit_of("# branch.oid (initial)\n# branch.head main\n") == ""
    assert commit_of("") == ""


def test_a_checkout_tells_its_commit(checkout: Path) -> None:
    """Changes of the source are told, what lies beside it (photos, runs) is none."""
    head = git(checkout, "rev-parse", "HEAD")
    (checkout / "photo.png").touch()
    assert commit(checkout) == head
    commit.cache_clear()
    (checkout / "study" / "a.py").write_text("a = 2\n")
    assert commit(checkout) == head + "+changes"


def test_a_hook_s_variables_do_not_mislead(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a hook of another repository git is told to look there: we ask about our own."""
    other = tmp_path_factory.mktemp("other")
    git(other, "init", "-q")
    git(other, "commit", "-qm", "other", "--allow-empty")
    head = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert commit(checkout) == head


def test_no_checkout_is_no_trouble(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed packages in another repository, a broken one, and no git at all: nothing."""
    assert commit(checkout / "study") == ""
    (checkout / ".git" / "HEAD").write_text("nonsense")
    assert commit(checkout) == ""
    commit.cache_clear()
    git_free = checkout / "bin"
    git_free.mkdir()
    monkeypatch.setenv("PATH", os.fspath(git_free))
    assert commit(checkout) == ""
    assert "commit" not in searched_by() or searched_by()["commit"]


def test_what_differs_is_named_then_and_now() -> None:
    """What was not known then cannot differ; what is not known now does."""
    then = {"torch": "2.14", "numpy": "2.0", "commit": "c0"}
    now = {"torch": "2.15", "numpy": "2.0", "device": "cpu"}
    assert drift_between(then, now) == (
        Drift("torch", "2.14", "2.15"),
        Drift("commit", "c0", "unknown"),
    )
    assert drift_between({}, now) == ()
