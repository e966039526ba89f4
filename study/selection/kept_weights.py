"""The intact weights files of a study."""

from collections.abc import Collection

from storage.records import Checkpoint, StudyRecord, Trial
from storage.store import Store
from storage.vault import Vault


def kept_weights(
    store: Store, vault: Vault, study: StudyRecord, numbers: Collection[int] | None = None
) -> tuple[list[tuple[Trial, Checkpoint]], list[str]]:
    """Return the trials whose best weights are intact, the best first, each file once.

    With `numbers`, only those trials. The second list names the files that are missing or changed.
    """
    seen: set[str] = set()
    kept: list[tuple[Trial, Checkpoint]] = []
    damaged: list[str] = []
    for ranked in store.ranking(study):
        trial, file = ranked.trial, ranked.checkpoint
        if file is None or file.path in seen or None in (trial.score, trial.loss):
            continue
        if numbers is not None and trial.number not in numbers:
            continue
        seen.add(file.path)  # trials may share a stage run
        if vault.verify(file.path, file.sha256, file.size):
            kept.append((trial, file))
        else:
            damaged.append(file.path)
    return kept, damaged
