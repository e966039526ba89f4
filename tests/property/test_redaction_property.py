"""Secrets of URLs: of every shape, at every command, in every text they may get into."""

import contextlib
import io
import logging
import shlex
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import cli
from storage.redaction import redact, redact_text
from study.config.schema import StudyConfig
from study.invocation import typed
from study.studies import plain_config
from study.views.terminal import LogLine

SECRET = "hunter2"  # noqa: S105 - of no account
HERE = "127.0.0.1:1"  # no server answers there, and none is asked

odd = st.text("@:/?#&%+;=,[](){}|~ é'\"\\", max_size=3)
schemes = st.sampled_from(
    [
        "postgresql",
        "postgresql+psycopg",
        "mysql",
        "sqlite",
        "s3",
        "s3a",
        "gs",
        "https",
        "http",
        "ftp",
        "sftp",
        "abfs",
        "file",
        "x-y",
    ]
)
names = st.sampled_from(
    [
        "password",
        "passwd",
        "secret",
        "token",
        "sig",
        "X-Amz-Signature",
        "X-Amz-Credential",
        "service",
        "sslpassword",
    ]
)


@st.composite
def urls(draw: st.DrawFn) -> str:
    """Draw a URL, well written or not, that holds the secret."""
    scheme, around = draw(schemes), draw(st.tuples(odd, odd))
    secret = f"{around[0]}{SECRET}{around[1]}"
    slashes = draw(st.sampled_from(["://", ":/", ":///", "//"]))
    scheme = "postgresql" if slashes == "//" else scheme  # a word and a path, but for a few
    login = f"{scheme}{slashes}me:{secret}@{HERE}/x"
    name = draw(names)
    return draw(
        st.sampled_from(
            [
                login,
                f"{login}?{name}={secret}",
                f"https://me:{secret}@{HERE}/x#{secret}",  # in s3:// it is part of a name
                f"{scheme}{slashes}{HERE}/x?{name}={SECRET}",
                f"{scheme}{slashes}{HERE}/x?a=b&{name}={SECRET}#top",
                f"https://{HERE}/x#{name}={SECRET}",
                f"{scheme}://me:{SECRET}%40{HERE}/x",
                f"https://{SECRET}@{HERE}/x",
                f"s3://{SECRET}@bucket/x",
                f"https://{HERE}/x?{SECRET}",
                f"https://{HERE}/x#{secret}",
                f"https://me:{SECRET}",
            ]
        )
    )


@given(urls())
def test_a_url_shows_no_secret(url: str) -> None:
    """Be it shown by itself, twice over, in a sentence, or as the path that it was mistaken for."""
    path = str(Path("/a", url))
    for text in (redact(url), redact(redact(url)), redact(path)):
        assert SECRET not in text
    for said in (f"there is no file {url!r}; give one", f"cannot use {path!r}: no"):
        assert SECRET not in redact_text(said)


@given(
    schemes,
    odd.map(lambda text: text.replace("?", "").replace("#", "")),
    st.sampled_from(["", "?secret=a", "#part"]),
)
def test_what_is_hidden_stays_readable(scheme: str, secret: str, rest: str) -> None:
    """Who and where are told, and a text that was made fit once is fit: nothing more is lost."""
    shown = redact(f"{scheme}://me:{secret}{SECRET}@bucket/prefix{rest}")
    assert shown.startswith(f"{scheme}://me:***@bucket/prefix")
    assert (
        redact_text(f"{shown} cannot be reached; mail a@b")
        == f"{shown} cannot be reached; mail a@b"
    )


@pytest.mark.parametrize(
    "plain",
    [
        "s3://bucket/a b@c",
        "s3://bucket/#1 of 2/x",
        "https://host:8080/photos/list.csv",
        "dashboard at http://127.0.0.1:8080/ (Ctrl-C ends)",
        "postgresql://me@host1:5432,host2:5433/db?sslmode=require",
        "postgresql://me@[::1]:5432/db?host=/var/run/postgresql",
        "abfs://container@account.dfs.core.windows.net/a",
        "sqlite:////a/b:c@d.db",
        "/a//b: no such file, a@b",
        "C:\\photos",
        "a trial was killed: 12:30 @ 4",
    ],
)
def test_what_holds_no_secret_stays_as_it_is(plain: str) -> None:
    """Places are what messages are for."""
    assert redact_text(plain) == plain


COMMANDS = [
    "check-data {}",
    "check-data . --data-root {}",
    "check-data . --html {}",
    "check-data nowhere --write-csv {}",
    "check-data nowhere --storage {}",
    "search --data {}",
    "search --data nowhere --data-root {}",
    "search --storage {} --data nowhere",
    "search --vault {} --data nowhere",
    "search --weights {} --data nowhere",
    "search --strategy grid {} --data nowhere",
    "search --config {} --data nowhere",
    "search --trainer {} --data nowhere",
    "search --study {} --data nowhere",
    "search --engine ray --address {} --data nowhere",
    "search --devices {} --data nowhere",
    "search --cache-limit {} --data nowhere",
    "plan --data {}",
    "plan --storage {} --data nowhere",
    "repeat 0 --storage {}",
    "repeat {}",
    "best --storage {}",
    "best --study {}",
    "best --metric {}",
    "compare {0} {0}",
    "compare 0 1 --storage {}",
    "predict {}",
    "predict . --weights {}",
    "predict x --storage {}",
    "explain {}",
    "explain . --weights {}",
    "export --to x --weights {}",
    "export --to x --storage {}",
    "reproduce {}",
    "reproduce 0 --storage {}",
    "ls --storage {}",
    "show {}",
    "show 0 --storage {}",
    "tree --storage {}",
    "report --storage {}",
    "dashboard --storage {}",
    "doctor --storage {}",
    "gc --storage {}",
    "gc --max-disk {}",
    "{}",
]


@pytest.mark.parametrize("command", COMMANDS)
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(url=urls(), debug=st.booleans())
@example(url=f"postgresql//me:{SECRET} @{HERE}/x", debug=False)
@example(url=f"postgresql:///me:{SECRET}?@{HERE}/x", debug=False)
@example(url=f"postgresql//me:{SECRET}::@{HERE}/x?password={SECRET}::", debug=True)
@example(url=f"postgresql://me:{SECRET}@{HERE}/x?service={SECRET}", debug=True)
def test_no_command_says_a_secret(command: str, url: str, debug: bool) -> None:
    """Whatever a command makes of a URL, it prints none of its secrets, tracebacks included."""
    words = [word.format(url) for word in command.split(" ")]
    said = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        code = cli.run(words, debug=debug)
    assert code != 0
    assert SECRET not in said.getvalue()


@given(urls())
def test_no_row_holds_a_secret(url: str) -> None:
    """The settings of a study and the command of its owner are stored, and handed on."""
    config = StudyConfig(storage=url, weights=url, trainer=url, grid=None)
    assert SECRET not in str(plain_config(config))
    words = ["encore", "search", "--storage", url, f"--vault={url}"]
    assert SECRET not in typed(words)
    assert shlex.split(typed(words))[:3] == words[:3]


def test_a_log_line_shows_no_secret() -> None:
    """What a library logs under --debug passes the same door."""
    said = f"asking http://me:{SECRET}@{HERE}/ {{'X-Amz-Security-Token': b'{SECRET}'}}"
    line = LogLine().format(logging.makeLogRecord({"msg": said}))
    assert SECRET not in line
    assert "me:***@" in line
    assert HERE in line
