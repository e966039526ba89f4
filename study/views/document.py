"""What `--json` prints."""

import json
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any


def json_text(document: Any) -> str:
    """Give one JSON document; records become objects, times ISO 8601."""
    return json.dumps(document, default=_plain, ensure_ascii=False, indent=2, allow_nan=False)


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"value must be plain, a record or a time, got {type(value).__name__}")
