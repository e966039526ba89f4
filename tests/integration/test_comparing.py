"""`compare` on studies whose runs come out as they are told to: trials, files, lists of answers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from storage.errors import StudyNotFound
from study.errors import ConfigError
from study.selection.best import best
from study.selection.compare import Comparison, compare
from study.statistics.intervals import wilson
from tests.lab import Lab
from tests.told import Run, search_as_told
from trainers.data.manifest import Manifest, Photo, Split
from trainers.errors import NotOurWeights

MakeLab = Callable[..., Lab]


@pytest.fixture
def planes() -> Manifest:
    """Make the manifest of the article: 309 validation photos of two types; there are no files."""
    counts = {Split.TRAIN: (2, 2), Split.VALID: (160, 149)}
    photos = [
        Photo(f"{split}/{name}/{i}.jpg", label, split, f"{split}{label}{i}", 9)
        for split, numbers in counts.items()
        for label, name in enumerate(("A380", "B747"))
        for i in range(numbers[label])
    ]
    return Manifest(Path("/nowhere"), ("A380", "B747"), tuple(sorted(photos, key=lambda p: p.path)))


@pytest.fixture
def lab(make_lab: MakeLab, planes: Manifest) -> Lab:
    """Search three schedules: 4 errors, 18 others, and the 4 with one more."""
    runs = {32: [Run(4)], 64: [Run(18, first=4)], 96: [Run(5)]}
    return search_as_told(make_lab, planes, runs)


def adds_up(found: Comparison) -> None:
    """Check that every photo is counted once, and that the test is McNemar's."""
    only = found.only_first_right, found.only_second_right
    assert found.both_right + sum(only) + found.neither_right == found.photos == 309
    for side, missed in ((found.first, only[1]), (found.second, only[0])):
        assert side.errors == missed + found.neither_right
        assert side.accuracy == 1 - side.errors / 309
        assert (side.low, side.high) == wilson(309 - side.errors, 309)
    expected = binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
    assert found.p_value == pytest.approx(expected)


def test_the_article_s_two_classifiers_differ_by_more_than_luck(lab: Lab) -> None:
    """4 errors against 18 others of 309: p = 0.0043, and each photo that differs is listed."""
    found = compare("0", "1", storage=lab.url)
    adds_up(found)
    assert (found.first.name, found.second.name) == ("trial 0", "trial 1")
    assert (found.study, found.first.errors, found.second.errors) == ("lab", 4, 18)
    assert (found.only_first_right, found.only_second_right) == (18, 4)
    assert (found.both_right, found.neither_right) == (287, 0)
    assert found.p_value == pytest.approx(0.0043, abs=5e-5)
    assert len(found.differences) == 22
    assert lab.manifest is not None
    paths = [photo.path for photo in lab.manifest.of_split(Split.VALID)]
    assert [each.path for each in found.differences] == [p for p in paths if "A380" in p][:22]
    named = [(each.label, each.first, each.second) for each in found.differences]
    assert named == [("A380", "B747", "A380")] * 4 + [("A380", "A380", "B747")] * 18


def test_one_photo_is_luck(lab: Lab) -> None:
    """Errors that both make say nothing; the other way round it is the same test."""
    one, other = compare("0", "2", storage=lab.url), compare("2", "0", storage=lab.url)
    for found in (one, other):
        adds_up(found)
        assert found.p_value == 1
        assert (found.neither_right, len(found.differences)) == (4, 1)
    assert (one.first, one.second) == (other.second, other.first)


def test_a_trial_against_itself_differs_nowhere(lab: Lab) -> None:
    """No photo, no difference, p is 1."""
    found = compare("1", "1", storage=lab.url)
    adds_up(found)
    assert (found.differences, found.p_value, found.neither_right) == ((), 1.0, 18)


def test_a_file_is_its_trial(lab: Lab, tmp_path: Path) -> None:
    """By its path, or wherever it has been copied to: its content tells."""
    file = Path(best(storage=lab.url).file)
    copied = tmp_path / "somewhere.safetensors"
    copied.write_bytes(file.read_bytes())
    expected = compare("0", "1", storage=lab.url)
    for path in (file, copied):
        found = compare(str(path), "1", storage=lab.url)
        assert found.first.name == str(path)
        assert found.differences == expected.differences
        assert found.p_value == expected.p_value


def test_a_list_of_answers_is_a_classifier_too(lab: Lab, tmp_path: Path) -> None:
    """Photo by photo as a trial's; a file of that kind is told by its name alone."""
    assert lab.manifest is not None
    photos = lab.manifest.of_split(Split.VALID)
    wrong = np.flatnonzero(lab.manifest.labels(Split.VALID) == 1)[:6]
    rows = [
        f"{photo.path},{lab.manifest.classes[1 - photo.label if i in wrong else photo.label]}"
        for i, photo in enumerate(photos)
    ]
    answers = tmp_path / "1.CSV"
    answers.write_text("\n".join(["path,predicted", *rows]))
    found = compare("0", str(answers), storage=lab.url)
    adds_up(found)
    assert (found.second.name, found.second.errors) == (str(answers), 6)
    assert (found.only_first_right, found.only_second_right) == (6, 4)
    assert [d.path for d in found.differences if d.first == "B747" == d.label] == [
        photos[i].path for i in wrong
    ]
    answers.write_text("path,predicted\n")
    with pytest.raises(ConfigError, match="must have a header and a row for each photo"):
        compare("0", str(answers), storage=lab.url)


def test_what_the_study_does_not_know_is_told(lab: Lab, finished: Lab) -> None:
    """An unknown trial, study or file, and weights of another study, each in a sentence."""
    with pytest.raises(LookupError, match="99"):
        compare("0", "99", storage=lab.url)
    with pytest.raises(LookupError, match=r"'none.pth' is neither a trial's number nor a file"):
        compare("none.pth", "0", storage=lab.url)
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        compare("none.csv", "0", storage=lab.url)
    with pytest.raises(StudyNotFound, match="'other'"):
        compare("0", "1", "other", storage=lab.url)
    strange = best(storage=finished.url).file
    with pytest.raises(NotOurWeights, match="not Encore's"):  # a trainer's own, without a card
        compare(strange, "0", storage=lab.url)


def test_a_trial_without_an_epoch_cannot_be_compared(finished: Lab) -> None:
    """One that diverged at once has no answers."""
    with pytest.raises(LookupError, match=r"trial 3 of study 'lab' .+ has no epoch"):
        compare("0", "3", storage=finished.url)
