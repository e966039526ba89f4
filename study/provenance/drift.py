"""The environment of a search, as recorded in weights files, and what has changed since."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from study.invocation import SOURCE, commit


@dataclass(frozen=True)
class Drift:
    """Something that weights may depend on, as it was when they were made and as it is now."""

    what: str
    then: str
    now: str


def drift_between(
    then: Mapping[str, str], now: Mapping[str, str], names: Iterable[str] | None = None
) -> tuple[Drift, ...]:
    """Return what differs, among these names or all that were recorded.

    What was not recorded cannot differ.
    """
    return tuple(
        Drift(name, then[name], now.get(name, "unknown"))
        for name in (then if names is None else names)
        if name in then and then[name] != now.get(name, "unknown")
    )


def circumstances_now(device: str, made_by: Mapping[str, str]) -> dict[str, str]:
    """Return the current values of what a card records: versions, commit, processor and device.

    `device` is where it would be trained now; only the precision, a setting, is taken from the
    card. Raises ValueError for a device that is not here.
    """
    from trainers.card import package_versions  # torch: seconds to import
    from trainers.device import Compute, choose_device, processor

    name = Compute(choose_device(device)).name.rpartition(", ")[0]
    precision = made_by.get("device", "").rpartition(", ")[2]
    here = {"device": f"{name}, {precision}", "processor": processor()}
    found = commit(SOURCE)
    return package_versions() | here | ({"commit": found} if found else {})
