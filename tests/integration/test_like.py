"""`search --like STUDY`: what was best on other photos is tried first."""

from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

import cli
from storage.records import Trial
from storage.store import existing_store
from study.searching.search import search
from study.studies import find_study
from tests.tiny_training import SEARCH, noise

SPACE: dict[str, Any] = {
    "n_stages": [1],
    "image_size": [24],
    "batch_size": [8],
    "n_cycles": [1],
    "lrs": [0.001, 0.01, 0.02, 0.03],
}


def settings(folder: Path, name: str, **fields: Any) -> dict[str, Any]:
    """Return the settings of a tiny search."""
    return {
        "data": folder / name,
        "storage": f"sqlite:///{folder / 'encore.db'}",
        **SEARCH,
        "space": SPACE,
        **fields,
    }


@pytest.mark.long
def test_a_search_begins_with_the_best_schedules_of_another(tmp_path: Path) -> None:
    """The best three by their means over seeds, in that order; then it goes on by itself."""
    noise(tmp_path / "old")
    noise(tmp_path / "new", 24, 12)
    search(**settings(tmp_path, "old", trials=6))
    search(**settings(tmp_path, "new", trials=4, like="old"))
    with existing_store(f"sqlite:///{tmp_path / 'encore.db'}") as store:
        assert store is not None
        old, new = (store.trials(find_study(store, name).id) for name in ("old", "new"))
        metric = find_study(store, "old").metric
    seeds: dict[str, list[Trial]] = defaultdict(list)
    for trial in old:
        seeds[trial.schedule_digest].append(trial)
    means = {
        digest: metric.rank(fmean(t.score or 0 for t in same), fmean(t.loss or 0 for t in same))
        for digest, same in seeds.items()
    }
    best = sorted(means, key=means.__getitem__)[:3]
    assert [trial.schedule_digest for trial in new[: len(best)]] == best
    assert len(new) == 4


def test_what_there_is_not_cannot_be_liked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No database, no such study, and a grid beside it: a sentence each, before any training."""
    noise(tmp_path / "new")
    words = ["search", "--data", str(tmp_path / "new"), "--backbone", "test_resnet"]
    words += ["--weights", "random", "--devices", "cpu", "--trials", "1", "--like", "old"]
    words += ["--storage", f"sqlite:///{tmp_path / 'encore.db'}"]
    assert cli.run(words) == 5
    assert "there is no database yet, so no study 'old'" in capsys.readouterr().err
    search(**settings(tmp_path, "new", trials=1))
    assert cli.run([*words, "--study", "other"]) == 2
    assert "no study 'old'" in capsys.readouterr().err
    grid = tmp_path / "grid.toml"
    grid.write_text("")
    assert cli.run([*words, "--strategy", "grid", str(grid)]) == 2
