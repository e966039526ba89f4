"""Before a search: leaks are refused, drawn splits keep duplicates together, others only noted."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import ImageOps

from storage.database import open_database
from storage.store import Store, existing_store
from study.config.loading import load_config, settings_of
from study.config.schema import StudyConfig
from study.datasets.freeze import Frozen, freeze_data
from study.datasets.gate import imbalance
from study.events import Notice, Progress
from study.searching.search import search
from tests.scenes import save, scene
from trainers.data.manifest import DatasetError, Manifest, Split, build_manifest, keep_together

SPACE: dict[str, Any] = {
    "n_stages": [1],
    "image_size": [24],
    "batch_size": [8],
    "crop": ["no"],
    "lrs": [0.01],
}

Freeze = Callable[..., tuple[Frozen, list[str]]]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write photos of two classes in two splits, all of them different."""
    root = tmp_path_factory.mktemp("clean")
    places = [(split, name) for split in ("train", "valid") for name in ("day", "night")]
    for number, (split, name) in enumerate(places):
        for index in range(6):
            seed = 100 * number + index
            save(scene(seed), root / split / name / f"{index}.jpg", quality=90)
    return root


@pytest.fixture
def leaking(tmp_path: Path, clean: Path) -> Path:
    """Return the same photos; two of train lie in valid, too: as they are, and mirrored."""
    root = tmp_path / "leaking"
    shutil.copytree(clean, root)
    copied = (clean / "train" / "day" / "2.jpg").read_bytes()
    (root / "valid" / "day" / "copy.jpg").write_bytes(copied)
    save(ImageOps.mirror(scene(103)), root / "valid" / "night" / "turned.jpg", quality=60)
    return root


@pytest.fixture
def freeze(tmp_path: Path) -> Freeze:
    """Return what freezes data as a search does, and the notices it gave."""

    def run(data: Path, **settings: Any) -> tuple[Frozen, list[str]]:
        told: list[Progress] = []
        mine = config(tmp_path, data, **settings)
        with existing_store(mine.storage) as store:
            frozen = freeze_data(mine, store, told.append, tmp_path / "cache")
        return frozen, [each.text for each in told if isinstance(each, Notice)]

    return run


def config(folder: Path, data: Path, **settings: Any) -> StudyConfig:
    """Return the settings of a tiny search."""
    given = {
        "data": data,
        "storage": f"sqlite:///{folder / 'runs' / 'encore.db'}",
        "study": "gate",
        "backbone": "test_resnet",
        "weights": "random",
        "portfolio": False,
        "devices": "cpu",
        "trials": 1,
        "space": SPACE,
    }
    return load_config(settings_of(**(given | settings)))


def test_few_clean_photos_pass_with_a_suggestion(freeze: Freeze, clean: Path) -> None:
    """Only folds are suggested, which score on more photos; the findings are returned."""
    frozen, notices = freeze(clean)
    (said,) = notices
    assert said.startswith("12 validation photos, few to choose by: --folds 5 would score each")
    assert frozen.check is not None
    assert frozen.check.pairs == ()
    assert frozen.check.manifest_digest == frozen.manifest.digest


def test_imbalanced_classes_are_told_where_accuracy_hides_them(
    freeze: Freeze, tmp_path: Path
) -> None:
    """Which class is the largest, which the smallest, and what to search by instead."""
    for index in range(20):
        folder = tmp_path / "uneven" / ("train" if index < 16 else "valid")
        label = "day" if index % 8 else "night"
        save(scene(900 + index, 60, 50), folder / label / f"{index}.png")
    frozen, notices = freeze(tmp_path / "uneven")
    assert any("'day' has 14 training photos, 'night' 2; accuracy" in each for each in notices)
    assert frozen.check is not None
    assert imbalance(frozen.check) in notices[0]
    _, notices = freeze(tmp_path / "uneven", metric="balanced_accuracy")
    assert not any("imbalanced" in each for each in notices)


def test_leaks_are_refused_in_one_sentence(freeze: Freeze, leaking: Path) -> None:
    """Copies across given splits end it, with an example and every way out."""
    with pytest.raises(DatasetError) as error:
        freeze(leaking)
    text = str(error.value)
    assert text.startswith("2 photos of valid are also in another split, such as 'train/day/2.jpg'")
    for way in ("check-data", "--write-csv", "--regroup", "--allow-leaks"):
        assert way in text
    assert text.isprintable()


def test_leaks_may_be_allowed(freeze: Freeze, leaking: Path) -> None:
    """Allowed, they stay where they are, and are named."""
    frozen, notices = freeze(leaking, allow_leaks=True)
    assert [pair.leaks for pair in frozen.check.pairs] == [True, True] if frozen.check else False
    (said,) = (each for each in notices if "--folds" not in each)
    assert "2 photos of valid are also in another split" in said


def test_regrouping_brings_duplicates_together(freeze: Freeze, leaking: Path) -> None:
    """Split anew, no pair lies across splits, and each class is in each split."""
    frozen, _ = freeze(leaking, regroup=True)
    assert frozen.check is not None
    assert len(frozen.check.pairs) == 2
    assert frozen.check.leaks == ()
    filled = {(photo.label, photo.split) for photo in frozen.manifest.photos}
    assert filled == {(label, split) for label in (0, 1) for split in Split}


@pytest.mark.long
def test_splits_that_are_drawn_never_leak(freeze: Freeze, leaking: Path, tmp_path: Path) -> None:
    """Whatever the seed, Encore's own splits keep copies together: it never refuses its own."""
    flat = tmp_path / "flat"
    for file in leaking.rglob("*.jpg"):
        target = flat / file.parent.name / f"{file.parent.parent.name}-{file.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    torn = 0
    for seed in range(4):
        frozen, _ = freeze(flat, seed=seed)
        assert frozen.check is not None
        assert len(frozen.check.pairs) == 2
        assert frozen.check.leaks == ()
        bare = {photo.path: photo.split for photo in build_manifest(flat, seed=seed).photos}
        mirrored = ("night/train-3.jpg", "night/valid-turned.jpg")
        torn += len({bare[path] for path in mirrored}) == 2
    assert torn  # else the test would prove nothing


def test_a_search_keeps_what_was_found_and_does_not_ask_again(
    tmp_path: Path, leaking: Path
) -> None:
    """The findings are in the database; the same search again keeps its splits without a look."""
    settings = config(tmp_path, leaking, regroup=True)
    search(settings)
    store = Store(open_database(settings.storage))
    try:
        digest = store.study("gate").manifest_digest
        found = store.check(digest)
    finally:
        store.close()
    assert found is not None
    assert (found["n_pairs"], found["n_leaks"]) == (2, 0)
    assert {pair["likeness"] for pair in found["pairs"]} == {"exact", "near"}
    with existing_store(settings.storage) as store:
        again = freeze_data(settings, store, lambda _: None)
    assert again.check is None
    assert again.manifest.digest == digest


def test_nothing_is_written_when_data_are_refused(tmp_path: Path, leaking: Path) -> None:
    """A refused search leaves no database behind."""
    with pytest.raises(DatasetError):
        search(config(tmp_path, leaking))
    assert not (tmp_path / "runs" / "encore.db").exists()


def test_the_digits_are_not_looked_over(freeze: Freeze) -> None:
    """The data that Encore brings along cost no time."""
    frozen, notices = freeze(None)
    assert frozen.check is None
    assert notices == []


def test_given_splits_stay_when_others_are_drawn(tmp_path: Path) -> None:
    """A photo without a split goes where its duplicate was put by hand."""
    root = tmp_path / "photos"
    rows = ["path,label,split"]
    for label in ("day", "night"):
        for index in range(6):
            save(scene(hash_of(label) + index), root / f"{label}{index}.png")
            rows.append(f"{label}{index}.png,{label},")
        save(scene(hash_of(label)).resize((150, 112)), root / f"{label}-given.png")
        rows.append(f"{label}-given.png,{label},valid")
    (root / "list.csv").write_text("\n".join(rows))
    manifest = build_manifest(root / "list.csv")
    photos = {photo.path: photo for photo in manifest.photos}
    group = (photos["day-given.png"], photos["day0.png"])
    moved = splits(keep_together(manifest, [group]))
    assert moved["day0.png"] is Split.VALID
    assert moved["day-given.png"] is moved["night-given.png"] is Split.VALID


def hash_of(label: str) -> int:
    """Return a seed for a class."""
    return 1000 * len(label)


def splits(manifest: Manifest) -> dict[str, Split]:
    """Return each photo's split by its path."""
    return {photo.path: photo.split for photo in manifest.photos}


def test_folds_keep_copies_together_where_splits_part_them(freeze: Freeze, leaking: Path) -> None:
    """Copies in train and valid are no leak: each is judged by what was trained without the other.

    Frozen again, the photos are in the same folds; other folds are refused.
    """
    frozen, notices = freeze(leaking, folds=2)
    manifest, check = frozen.manifest, frozen.check
    assert manifest.folds == 2
    assert check is not None
    assert check.manifest_digest == manifest.digest
    assert [pair.leaks for pair in check.pairs] == [False, False]
    place = {photo.path: photo.fold for photo in manifest.photos}
    assert all(place[pair.first.path] == place[pair.second.path] for pair in check.pairs)
    assert not any("--folds" in each for each in notices)
