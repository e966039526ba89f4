"""Splits drawn by default: fair, without leaks, and the same for the same data and seed."""

from collections import defaultdict
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.data.sources import Split
from trainers.data.splits import assign_splits
from trainers.errors import DatasetError

SHARES = {Split.TRAIN: 0.6, Split.VALID: 0.2, Split.TEST: 0.2}

Data = list[tuple[str, str, Split | None]]
"""Photos as (label, hash, given split)."""


@st.composite
def data(draw: st.DrawFn, *, with_given: bool = False) -> Data:
    """Draw classes of 3 to 40 distinct photos, some of them several times."""
    photos: Data = []
    for label in draw(st.lists(st.text("abc", min_size=1), min_size=1, max_size=4, unique=True)):
        for number in range(draw(st.integers(3, 40))):
            given = draw(st.sampled_from([None, *Split])) if with_given else None
            photos += [(label, f"{label}-{number}", given)] * draw(st.sampled_from([1, 1, 1, 2, 5]))
    return photos


def assigned(photos: Data, seed: int) -> dict[tuple[str, str], set[Split]]:
    """Return the splits that the photos of each label and hash end up in."""
    splits = defaultdict(set)
    labels, hashes, fixed = zip(*photos, strict=True)
    for label, sha, split in zip(
        labels, hashes, assign_splits(labels, hashes, fixed, seed), strict=True
    ):
        splits[label, sha].add(split)
    return splits


@given(data(), st.integers())
def test_shares_and_duplicates(photos: Data, seed: int) -> None:
    """Each class is split 60/20/20 to within one photo; copies stay together; no split is empty."""
    splits = assigned(photos, seed)
    for label in {label for label, _ in splits}:
        mine = [found for (other, _), found in splits.items() if other == label]
        assert all(len(found) == 1 for found in mine)
        for split, share in SHARES.items():
            count = mine.count({split})
            assert count >= 1
            assert abs(count - share * len(mine)) < 1


@given(data(with_given=True), st.integers(), st.randoms(use_true_random=False))
def test_only_seed_and_contents_count(photos: Data, seed: int, random: Random) -> None:
    """The order of listing changes nothing, with or without given splits."""
    shuffled = random.sample(photos, len(photos))
    assert assigned(shuffled, seed) == assigned(photos, seed)


@given(data(with_given=True), st.integers())
def test_given_splits_are_kept(photos: Data, seed: int) -> None:
    """A split that is given is never changed, and copies of such a photo follow it."""
    copies: Data = [(label, sha, None) for label, sha, _ in photos]
    splits = assigned(photos + copies, seed)
    for label, sha, split in photos:
        assert splits[label, sha] == ({split} if split else splits[label, sha])
        assert len(splits[label, sha]) == 1


@given(st.integers(), st.integers(3, 30), st.integers(0, 30))
def test_classes_that_share_photos(seed: int, n: int, shared: int) -> None:
    """Photos in two classes stay together, and each class still has photos in each split."""
    photos: Data = [("a", str(number), None) for number in range(n)]
    photos += [("b", str(number), None) for number in range(n - min(n, shared), 2 * n)]
    splits = assigned(photos, seed)
    for label in "ab":
        assert set.union(*(found for (other, _), found in splits.items() if other == label)) == {
            *Split
        }
    for sha in {sha for _, sha in splits}:
        assert len(splits.get(("a", sha), set()) | splits.get(("b", sha), set())) == 1


def test_another_seed_gives_other_splits() -> None:
    """Of a hundred seeds, all split thirty photos differently."""
    photos: Data = [("a", str(number), None) for number in range(30)]
    assert len({str(assigned(photos, seed)) for seed in range(100)}) == 100


@given(st.integers(1, 2), st.integers(1, 5))
def test_too_few_photos(distinct: int, copies: int) -> None:
    """Fewer than three distinct photos cannot be split, however many copies there are."""
    photos: Data = [("a", str(number), None) for number in range(distinct)] * copies
    with pytest.raises(DatasetError, match=f"at least 3 distinct photos.*got {distinct}"):
        assigned(photos, 0)
