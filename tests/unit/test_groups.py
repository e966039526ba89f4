"""Groups of photos: how they are found, kept together, and told when they are parted."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image

from tests.scenes import save, scene
from trainers.data.groups import by_time, find_groups, joined, parse_group_by
from trainers.data.inspect.group_guess import guess_groups
from trainers.data.manifest import Manifest, Parted, Photo, Split, build_manifest, differences
from trainers.data.photo import taken_at
from trainers.data.splits import assign_groups
from trainers.errors import DatasetError

LABELS = [("day", "night")[i // 60] for i in range(120)]
HASHES = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(120)]
GROUPS = [f"patient {i // 6}" if i % 60 < 48 else "" for i in range(120)]


def test_groups_stay_together_in_stratified_splits() -> None:
    """No group is parted, shares are near 60/20/20 in each class, and the order does not matter."""
    splits = assign_groups(LABELS, HASHES, GROUPS, [None] * 120, 7)
    for group in set(GROUPS) - {""}:
        assert len({s for s, g in zip(splits, GROUPS, strict=True) if g == group}) == 1
    for label in ("day", "night"):
        own = [s for s, other in zip(splits, LABELS, strict=True) if other == label]
        assert 6 <= own.count(Split.VALID) <= 18
        assert 6 <= own.count(Split.TEST) <= 18
    turned = assign_groups(LABELS[::-1], HASHES[::-1], GROUPS[::-1], [None] * 120, 7)
    assert turned[::-1] == splits
    assert assign_groups(LABELS, HASHES, GROUPS, [None] * 120, 8) != splits


def test_copies_of_two_groups_bring_them_together() -> None:
    """Photos of one hash share a split though they are of different groups."""
    hashes = [HASHES[0] if i in (0, 6) else sha for i, sha in enumerate(HASHES)]
    splits = assign_groups(LABELS, hashes, GROUPS, [None] * 120, 1)
    assert len(set(splits[:12])) == 1


def test_a_given_split_takes_its_group_along() -> None:
    """A group of which one photo has a split goes with it; given splits are never changed."""
    given: list[Split | None] = [None] * 120
    given[0], given[60], given[66] = Split.VALID, Split.TEST, Split.TRAIN
    given[61] = Split.VALID  # a group that is given parted stays so: the gate refuses it
    splits = assign_groups(LABELS, HASHES, GROUPS, given, 1)
    assert set(splits[:6]) == {Split.VALID}
    assert (splits[60], splits[61]) == (Split.TEST, Split.VALID)
    assert set(splits[66:72]) == {Split.TRAIN}
    assert {s.value for s in splits} == {"train", "valid", "test"}


def test_too_few_groups_cannot_be_split() -> None:
    """Fewer than three groups of a class are refused in a sentence."""
    groups = ["a" if i < 40 else "b" if i < 60 else f"c{i}" for i in range(120)]
    with pytest.raises(DatasetError, match="'day' must have at least 3 groups of photos"):
        assign_groups(LABELS, HASHES, groups, [None] * 120, 1)


@pytest.mark.parametrize("text", ["patient", "(a)(b)", "(", "exif-time:", "exif-time:0s"])
def test_what_is_no_rule_is_refused(text: str) -> None:
    """A rule has one capture group, or a span of time above 0."""
    with pytest.raises(ValueError, match=r"^must"):
        parse_group_by(text)


def test_groups_by_path() -> None:
    """What is captured names the group; a path that does not match is alone."""
    by = parse_group_by(r"/(p\d+)_")
    assert find_groups(by, Path(), ["a/p1_1.jpg", "a/p1_2.jpg", "b/p2_1.jpg", "b/x.jpg"]) == [
        "p1",
        "p1",
        "p2",
        "",
    ]
    with pytest.raises(DatasetError, match="no two photos of one group"):
        find_groups(by, Path(), ["a/p1_1.jpg", "a/p2_2.jpg"])


@pytest.mark.parametrize("name", ["x" * 201, "a\x1b[31m", "a\u202eb"])
def test_hostile_names_of_groups_are_refused(name: str, tmp_path: Path) -> None:
    """A name that is too long or would break a terminal is refused, printably, from either way."""
    with pytest.raises(DatasetError) as error:
        find_groups(parse_group_by("(.*)/"), Path(), [f"{name}/1.jpg", f"{name}/2.jpg"])
    assert str(error.value).isprintable()
    listed = tmp_path / "list.csv"
    listed.write_text(f"path,label,group\na.jpg,day,{name}\n", encoding="utf-8")
    save(scene(1), tmp_path / "a.jpg")
    with pytest.raises(DatasetError, match="row 2") as error:
        build_manifest(listed)
    assert str(error.value).isprintable()


def test_a_pause_parts_groups_of_time() -> None:
    """Photos within the span of the one before are together, in chains, without a time alone."""
    start = datetime(2024, 5, 1, 12, tzinfo=UTC)
    times = [start + timedelta(seconds=s) for s in (100, 0, 50, 161, 300)]
    together = ["2024-05-01 12:00:00"] * 3
    alone = ["2024-05-01 12:02:41", "2024-05-01 12:05:00", ""]
    assert by_time([*times, None], 60) == [*together, *alone]


def test_times_are_read_from_exif(tmp_path: Path) -> None:
    """The moment of exposure is read; broken or missing EXIF says nothing."""
    exif = Image.Exif()
    exif[306] = "2024:05:01 12:00:00"
    save(scene(1), tmp_path / "a.jpg", exif=exif)
    exif[306] = "0000:00:00 00:00:00"
    save(scene(2), tmp_path / "b.jpg", exif=exif)
    (tmp_path / "c.jpg").write_bytes(b"no photo")
    found = [taken_at(tmp_path / name) for name in ("a.jpg", "b.jpg", "c.jpg", "none.jpg")]
    assert [str(time) for time in found] == ["2024-05-01 12:00:00", "None", "None", "None"]


def test_links_go_through_others() -> None:
    """Photos are joined by any key and through others; empty keys join nothing."""
    assert joined(["a", "", "a", "", "b"], ["", "x", "x", "", ""]) == [0, 0, 0, 3, 4]


def test_a_manifest_keeps_its_groups_and_names_parted_ones() -> None:
    """Groups survive JSON and change the digest; without any, the document is as it ever was."""
    photos = tuple(
        Photo(f"{i}.jpg", i % 2, Split.TRAIN if i < 4 else Split.VALID, HASHES[i], 9)
        for i in range(8)
    )
    plain = Manifest(Path(), ("day", "night"), photos)
    assert json.loads(plain.to_json())["version"] == 1
    assert {len(row) for row in json.loads(plain.to_json())["photos"]} == {5}
    assert plain.digest == "f3015b40d9396b8a3f51bb7fd99932eec5cf8490238995c7f283979a45405207"
    assert plain.groups(Split.VALID) is None
    named = ("a", "a", "", "", "a", "b", "b", "")
    grouped = replace(
        plain, photos=tuple(replace(p, group=g) for p, g in zip(photos, named, strict=True))
    )
    assert Manifest.from_json(grouped.to_json(), Path()) == grouped
    assert grouped.digest != plain.digest
    assert grouped.parted == (Parted("a", {Split.TRAIN: 2, Split.VALID: 1}),)
    assert grouped.n_groups() == 5
    assert "5 moved to another group" in differences(plain, grouped)
    numbers = grouped.groups(Split.VALID)
    assert numbers is not None
    assert len(set(numbers.tolist())) == 3
    assert numbers[1] == numbers[2]


@pytest.mark.parametrize(
    ("names", "example"),
    [
        ([f"p{i // 4}_left_{i}.jpg" for i in range(60)], "p0_left"),
        ([f"cell/p{i // 4}_{'lr'[i % 2]}{i}_x.jpg" for i in range(60)], "p0"),
        ([f"case 1{i // 4}/{'abcd'[i % 4]}.jpg" for i in range(60)], "case 10"),
    ],
)
def test_groups_are_guessed_by_names(tmp_path: Path, names: list[str], example: str) -> None:
    """The proposed flag finds fifteen groups of four, and says how many of them are parted."""
    splits = [Split.VALID if i % 8 == 0 else Split.TRAIN for i in range(60)]
    photos = [Photo(name, 0, split, "", 1) for name, split in zip(names, splits, strict=True)]
    found = guess_groups(tmp_path, photos)
    assert found is not None
    assert (found.groups, found.photos, found.parted) == (15, 60, 8)
    groups = find_groups(parse_group_by(found.group_by), tmp_path, names)
    assert len(set(groups)) == 15
    assert example in groups


@pytest.mark.parametrize(
    "names",
    [
        [f"cats/cat{i}.jpg" for i in range(40)],
        [f"train_Golden-Delicious_{i:03}.jpg" for i in range(40)],
        [f"IMG_{i:04}.jpg" for i in range(40)],
        [f"DSC0{i}.jpg" for i in range(40)],
        [f"holiday 2024/{i}.jpg" for i in range(40)],
    ],
)
def test_names_of_classes_cameras_and_days_are_no_groups(tmp_path: Path, names: list[str]) -> None:
    """What holds more than a fifth of all photos is not guessed, nor what has no number."""
    photos = [Photo(name, 0, Split.TRAIN, "", 1) for name in names]
    assert guess_groups(tmp_path, photos) is None


def test_bursts_are_guessed_by_time(tmp_path: Path) -> None:
    """Three photos of every half minute, an hour apart: the flag is that of times."""
    exif, photos = Image.Exif(), [Photo(f"x{i}.jpg", 0, Split.TRAIN, "", 1) for i in range(18)]
    for index, photo in enumerate(photos):
        exif[306] = f"2024:05:01 {9 + index // 3:02}:00:{10 * (index % 3):02}"
        save(scene(index), tmp_path / photo.path, exif=exif)
    found = guess_groups(tmp_path, photos)
    assert found is not None
    assert (found.group_by, found.groups, found.photos) == ("exif-time:60s", 6, 18)
