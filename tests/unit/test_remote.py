"""URLs of vaults and data: what is refused before anything is asked, and what is never shown."""

from typing import NoReturn

import pytest

from storage.errors import RemoteUnusable
from storage.redaction import redact_text
from storage.remote import Remote, plain_url
from study.config.loading import load_config
from study.config.schema import StudyConfig
from study.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("abfs://container@account.dfs.core.windows.net/a", None),
        ("file:///srv/vault", None),
    ],
)
def test_a_url_is_kept_as_it_is(url: str, plain: str | None) -> None:
    """But for a slash at its end: the same vault is the same text."""
    assert plain_url(url) == (plain or url)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("bucket/prefix", "must be a URL"),
        ("s3:/bucket", "must be a URL"),
        ("s3://", "names no place"),
        ("s3:///prefix", "names no place"),
        ("s3://bucket/../other", "names no place"),
        ("s3x://bucket", "s3x:// is not a known protocol"),
        ("s3://me:hun/t@er2@bucket", "holds a password"),
        ("s3://AKIAKEY@bucket", "holds a password"),
        ("s3://bucket?secret=hunter2", "password or options"),
        ("s3://buck\net", "must be a URL"),
    ],
)
def test_a_url_that_cannot_be_is_refused(url: str, says: str) -> None:
    """In one sentence without its secrets, be it for weights or for data."""
    for flags in ({"vault": url}, {"data": {"source": url}}):
        if says == "must be a URL" and "data" in flags and "\n" not in url:
            continue  # then it is a path
        with pytest.raises(ConfigError, match=says) as caught:
            load_config(flags)
        assert "hun" not in str(caught.value)
        assert "er2" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_messages_hide_what_comes_before_an_at() -> None:
    """An endpoint's own password, which a library may quote, is not passed on."""
    said = 'Could not connect to "http://me:p@ss/w@host:9/x?sig=abc"'
    assert redact_text(said) == 'Could not connect to "http://me:***@host:9/x?sig=***"'
    assert redact_text("s3://bucket/a b@c") == "s3://bucket/a b@c"


def test_a_vault_is_a_setting_like_others() -> None:
    """It is none by default, and comes from the file or the flag."""
    assert StudyConfig().vault is None
    assert load_config({"vault": "s3://bucket/"}).vault == "s3://bucket"


class Failing(Remote):
    """A remote whose every request fails in the same way."""

    error: Exception = ConnectionResetError("reset")
    asked = 0

    def _send(self, *_: object) -> NoReturn:
        self.asked += 1
        raise self.error


@pytest.mark.parametrize(
    ("error", "tries", "says"),
    [
        (ConnectionResetError("reset by peer"), 4, r"cannot be reached \(reset by peer\)"),
        (PermissionError("no"), 1, "refuses access"),
        (FileNotFoundError("no"), 1, "no place s3://bucket"),
        (ImportError("s3fs"), 1, "pip install"),
    ],
)
def test_only_what_may_pass_is_tried_again(
    error: Exception, tries: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waits grow, to the time that there is; what lasts is told at once, in one sentence."""
    clock, waits = [0.0], list[float]()
    monkeypatch.setattr("storage.remote.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("storage.remote.random.uniform", lambda _, most: most)

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr("storage.remote.time.sleep", sleep)
    remote = Failing("s3://bucket", give_up_after=1.0)
    remote.error = error
    with pytest.raises(RemoteUnusable, match=says):
        remote.check()
    assert remote.asked == tries
    assert [round(wait, 9) for wait in waits] == [0.2, 0.4, 0.4][: tries - 1]
