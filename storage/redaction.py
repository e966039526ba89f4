"""Hide secrets in URLs before they are shown or stored, even in malformed ones.

A password may hold an @, a slash or a space, and a URL may hold one where it does not belong. So
this works on the text and not with a parser, and hides in case of doubt.
"""

import re

HIDDEN = "***"

_NO_COLON = r"\b(?:postgresql|mysql|s3|https?|s?ftp)(?:\+\w+)?/+|//+"
"""A scheme and slashes without the colon; after any other word, it is a path."""

_SCHEME = r"\b[a-z][a-z0-9+.-]{1,30}:/+"
_BEGIN = rf"(?:{_SCHEME}|{_NO_COLON})"
"""The beginning of a URL, also without its colon or a slash, as if it were a path."""

_URL = re.compile(_BEGIN, re.IGNORECASE)
_WITHIN = re.compile(
    # First those in quotes, as Python writes a text, for these may hold spaces.
    rf"(?<=')[^'\s:]*?{_BEGIN}(?:\\.|[^'\\\n])*(?=')"
    rf'|(?<=")[^"\s:]*?{_BEGIN}(?:\\.|[^"\\\n])*(?=")'
    rf"|{_BEGIN}[^\s:/@]*:\*\*\*@\S*"  # hidden before: another @ behind it is the sentence's
    rf"|{_SCHEME}(?:[^\s:/@]*:[^\n]*@)?\S*|(?:{_NO_COLON})\S*",
    re.IGNORECASE,
)
_AT = r"(?:@|%40)"
_LOGIN = re.compile(rf"(?is)([^:/@]*?(?::|%3a)).*{_AT}")
_USER = re.compile(rf"(?i)[^:/@?#]+{_AT}")
_PORT = re.compile(r"\d*(?:,[^:/@]*(?::\d*)?)*(?:[/?#]|[^\w/?#]*$)")
_NO_PORT = re.compile(rf"([^\s:/@?#\[\]]+:)(?!{_PORT.pattern}).*", re.DOTALL)

_NAMED = ("postgres", "mysql", "maria", "sqlite", "abfs", "wasb", "sftp", "ssh", "ftp", "hdfs")
"""Prefixes of schemes in which a single word before an @ is a user name, not a token."""

_QUERY, _TAIL = re.compile(r"\?"), re.compile(r"(?i)[?#]|%23|%3f")

_LOCAL = ("sqlite", "file")
_NUMBER_SIGN_IN_NAMES = (*_LOCAL, "s3", "s3a", "gs", "gcs")

_HARMLESS = frozenset(
    [
        "host",
        "hostaddr",
        "port",
        "dbname",
        "user",
        "sslmode",
        "connect_timeout",
        "application_name",
        "client_encoding",
        "target_session_attrs",
        "timeout",
        "mode",
        "cache",
        "uri",
    ]
)
"""Parameters that are shown; all others may be anything, a signature say."""

_HARMLESS_VALUE = re.compile(r"[\w./,-]*")
_SECRET = re.compile(
    r"(?i)((?:passw|pwd|\bsig\b|secret|token|signature|credential|authorization|api[-_]?key|access[-_]?key)"
    r"[\w.-]{0,40}(?:\s*=\s*|%3d|['\"]:\s*b?)|\bservice (?=\"))"
    r"('[^'\n]*'|\"[^\"\n]*\"|[^\s&'\"]+)"
)
"""Words that precede a secret in a URL, a list of headers or a driver's message."""


def redact(url: str) -> str:
    """Return a URL for a message: without passwords, even if it is misspelt.

    Other text is unchanged, except before an @.
    """
    begin = _URL.search(url)
    if begin is None:
        shown = re.sub(r"(?s)^.*@", f"{HIDDEN}@", _without_named(url))
        return re.sub(r"(?s)^(\w{2,}:[^:]+:).+", rf"\1{HIDDEN}", shown)
    scheme = re.split("[:/]", begin[0])[0].lower()
    rest = url[begin.end() :]
    found = (_QUERY if scheme.startswith(_NUMBER_SIGN_IN_NAMES) else _TAIL).search(rest)
    place, mark, query = (
        (rest[: found.start()], found[0], rest[found.end() :]) if found else (rest, "", "")
    )
    if "@" in query and ":" in place:
        place, mark, query = f"{place.partition(':')[0]}:{HIDDEN}", "", ""  # a password with a ?
    elif mark:
        query = "&".join(map(_parameter, query.split("&"))) if mark == "?" else HIDDEN
    return _without_named(url[: begin.end()] + _without_login(place, scheme) + mark + query)


def redact_text(text: str) -> str:
    """Return a text with each URL in it redacted."""
    return _without_named(_WITHIN.sub(lambda found: redact(found[0]), text))


def redact_word(text: str) -> str:
    """Return a word, such as a path, redacted if it contains a URL; else unchanged."""
    return redact(text) if _URL.search(text) else text


def is_harmless(name: str, value: str) -> bool:
    """Return whether a URL's parameter can be shown."""
    return name.lower() in _HARMLESS and _HARMLESS_VALUE.fullmatch(value) is not None


def _without_login(rest: str, scheme: str) -> str:
    """Hide what comes before the last @; or, without one, what cannot be a port."""
    if login := _LOGIN.match(rest):
        return f"{login[1]}{HIDDEN}@{rest[login.end() :]}"
    if (user := _USER.match(rest)) and not scheme.startswith(_NAMED):
        return f"{HIDDEN}@{rest[user.end() :]}"
    if scheme and not scheme.startswith(_LOCAL):
        return _NO_PORT.sub(rf"\1{HIDDEN}", rest, count=1) if _NO_PORT.match(rest) else rest
    return rest


def _parameter(text: str) -> str:
    name, mark, value = text.partition("=")
    if not text or (mark and is_harmless(name, value)):
        return text
    return f"{name}={HIDDEN}" if mark and re.fullmatch(r"[\w.-]+", name) else HIDDEN


def _without_named(text: str) -> str:
    return _SECRET.sub(rf"\1{HIDDEN}", text)
