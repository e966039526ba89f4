"""What photos are compared with: distances, and files that are refused."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from study.deployment.reference import stated
from study.errors import ConfigError
from study.statistics.conformal import Known, beyond, enough, limit, p_values
from study.views.predictions import stated_lines
from tests.tiny_training import card_of, network_of
from trainers.backbone import Network, features_of
from trainers.card import WeightsCard
from trainers.checkpoint import save_weights
from trainers.classifier import Classifier, load
from trainers.errors import NotOurWeights
from trainers.reference import (
    NEIGHBOURS,
    Joined,
    Reference,
    beside,
    digest_of,
    distances,
    read_references,
    rounded,
    save_references,
)

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

NETWORK = network_of()
WIDTH = features_of(NETWORK.body)

Tensors = dict[str, np.ndarray[Any, Any]]


def made(**others: Any) -> Reference:
    """Make a reference of the tiny network."""
    rng = np.random.default_rng(0)
    features = rounded(rng.random((6, WIDTH)).astype(np.float32))
    far, misfits = rng.random((2, 9)).astype(np.float32)
    return Reference(**{"weights": digest_of(NETWORK), "features": features, "distances": far,
                        "misfits": misfits} | others)  # fmt: skip


def test_what_is_elsewhere_is_farther() -> None:
    """Photos of known classes lie within the usual distance, those between and beyond do not."""
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(4, 32))

    def around(some: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
        noise = 0.2 * rng.normal(size=(count, len(some), 32))
        return np.asarray((some + noise).reshape(-1, 32), np.float32)

    known = rounded(around(centres, 50))
    usual = np.quantile(distances(around(centres, 50), known), 0.99)
    strangers = around(rng.normal(size=(6, 32)), 20)
    assert distances(strangers, known).min() > usual
    assert distances(7 * around(centres, 20), known).max() < 1.3 * usual  # lengths do not count


def test_a_known_photo_is_at_no_distance() -> None:
    """Whatever else is known, if enough photos are like it; one of odd photos alone is far."""
    known = rounded(np.repeat(np.eye(3, dtype=np.float32), NEIGHBOURS, axis=0))
    found = distances(np.array([[5, 0, 0], [-1, -1, -1], [1, 1, 0]], np.float32), known)
    assert found == pytest.approx([0, 1 + 3**-0.5, 1 - 2**-0.5], abs=1e-6)
    odd = np.append(known, rounded(np.full((1, 3), -1, np.float32)), axis=0)
    assert distances(np.array([[-1, -1, -1]], np.float32), odd) == pytest.approx(1 + 3**-0.5)


@pytest.mark.parametrize("groups", [None, np.array([0, 0, 1, 2, 2, 2, 3, 1, 0])])
def test_what_is_written_is_read(groups: np.ndarray[Any, Any] | None, tmp_path: Path) -> None:
    """To the last bit, with groups or without; groups are counted."""
    path = beside(tmp_path / "acc98.61_x.safetensors")
    assert path.name == "acc98.61_x.reference.safetensors"
    written = made(groups=groups)
    save_references(path, [written])
    (found,) = read_references(path, [NETWORK])
    for name in ("features", "distances", "misfits", "groups"):
        np.testing.assert_array_equal(getattr(found, name), getattr(written, name))
    assert found.weights == digest_of(NETWORK)
    assert stated([found], 0.5, None).groups == (None if groups is None else 4)


def test_numbers_of_several_labels_are_read_only_as_such(tmp_path: Path) -> None:
    """A row for each photo; a file of one class each, or of other labels, is refused."""
    path, misfits = tmp_path / "a", np.random.default_rng(0).random((9, 4)).astype(np.float32)
    save_references(path, [made(misfits=misfits)])
    np.testing.assert_array_equal(read_references(path, [NETWORK], 4)[0].misfits, misfits)
    for n_labels in (None, 3):
        with pytest.raises(NotOurWeights, match="not each photo has its numbers"):
            read_references(path, [NETWORK], n_labels)
    save_references(path, [made()])
    with pytest.raises(NotOurWeights, match="not each photo has its numbers"):
        read_references(path, [NETWORK], 4)


def test_sets_of_labels_are_based_on_photos_with_labels() -> None:
    """Photos, and groups of them, without any are not counted, and the sentence says so."""
    misfits = np.full((9, 2), -1, np.float32)
    misfits[:6, 0] = np.arange(6) / 10
    found = stated([made(misfits=misfits)], None, 0.8)
    assert found.labelled_text == "6 of 9 validation photos that have labels"
    assert found.misfit == misfits[5, 0]
    with pytest.raises(
        ConfigError, match=r"needs at least 9 .* with labels, .* 6 among 9 .* 85\.7%"
    ):
        stated([made(misfits=misfits)], None, 0.9)
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 4, 5])
    assert stated([made(misfits=misfits, groups=groups)], None, 0.75).misfit == misfits[5, 0]
    with pytest.raises(ConfigError, match=r"that share no group, .* 6 among 9 .* give 75% or less"):
        stated([made(misfits=misfits, groups=groups)], None, 0.8)
    misfits[6:, 1] = 0
    assert stated([made(misfits=misfits)], None, 0.8).labelled_text == "9 validation photos"


def of_folds() -> tuple[list[Network], list[Reference]]:
    """Return the networks of three folds, and their references; one has groups."""
    networks = [network_of(seed=seed) for seed in range(3)]
    return networks, [
        made(weights=digest_of(network), groups=np.arange(9) // 2 if number else None)
        for number, network in enumerate(networks)
    ]


def test_folds_have_a_reference_each(tmp_path: Path) -> None:
    """In one file, in their order; rates are based on the photos of all, and say the worst case."""
    path, (networks, written) = tmp_path / "a", of_folds()
    save_references(path, written)
    found = read_references(path, networks)
    for one, other in zip(found, written, strict=True):
        assert one.weights == other.weights
        for name in ("features", "distances", "misfits", "groups"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    told = stated(found, 0.1, 0.9)
    assert (told.photos, told.groups, told.folds) == (27, 9 + 5 + 5, 3)
    worst = 2 * (0.1 + 0.9 * 2 / (19 + 3))
    assert (told.unknown_at_most, told.missed_at_most) == pytest.approx((worst, worst))
    assert told.unknown_text == f"about 10 % (in the worst case {100 * worst:.3g} %)"
    assert told.coverage_text == f"about 90 % (in the worst case {100 - 100 * worst:.3g} %)"
    first, second = stated_lines(replace(told, labelled=20))
    assert first.startswith(f"{told.unknown_text} of photos like the 27 validation photos in 19")
    assert f"sets hold {told.coverage_text} of a photo's labels, on average over" in second
    assert "probability of at least" not in second  # there is no one number
    alone = stated(written[:1], 0.1, 0.9)
    assert (alone.folds, alone.unknown_at_most) == (0, 0.1)
    assert (alone.unknown_text, alone.coverage_text) == ("at most 10 %", "at least 90 %")
    with pytest.raises(ConfigError, match="these weights have 27 validation photos in 19 groups"):
        stated(found, 0.01, None)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda t: {n: v for n, v in t.items() if n != "fold2.misfits"}, "misfits"),
        (lambda t: {n: v for n, v in t.items() if not n.startswith("fold1")}, "features"),
        (lambda t: {n.replace("fold1.", ""): v for n, v in t.items()}, "features"),
        (lambda t: t | {"fold1.distances": t["fold1.distances"][1:]}, "not each photo"),
        (lambda t: t | {"fold2.features": t["fold2.features"][:0]}, "features are of shape"),
        (lambda t: t | {"fold0.distances": t["fold0.distances"] * np.float32("nan")}, "no number"),
    ],
)
def test_each_fold_must_be_there_and_fit(
    spoil: Callable[[Tensors], Tensors], says: str, tmp_path: Path
) -> None:
    """A file that lacks one, or in which one is broken, is refused as a plain one is."""
    path, (networks, written) = tmp_path / "a", of_folds()
    save_references(path, written)
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    save_file(spoil(load_file(path)), path, metadata)
    with pytest.raises(NotOurWeights, match=says):
        read_references(path, networks)


def test_references_belong_to_their_folds(tmp_path: Path) -> None:
    """In another order, of fewer folds or of one network, they are of other weights."""
    path, (networks, written) = tmp_path / "a", of_folds()
    save_references(path, written)
    for others in (networks[::-1], networks[:2], networks[:1]):
        with pytest.raises(NotOurWeights, match="of other weights"):
            read_references(path, others)
    save_references(path, written[:1])
    with pytest.raises(NotOurWeights, match="of other weights"):
        read_references(path, networks)


@pytest.mark.parametrize("grouped", [True, False])
def test_joined_distances_are_above_the_limit_where_photos_are_unknown(grouped: bool) -> None:
    """Exactly where p-values are at most the rate; between the networks' distances, or the one."""
    rng = np.random.default_rng(3)
    for folds in (1, 2, 4):
        for rate in (0.05, 0.1, 0.25):
            known = [
                Known.of_photos(
                    (rng.integers(0, 40, 25) / 8).astype(np.float32),
                    np.arange(25) // 2 if grouped else None,
                )
                for _ in range(folds)
            ]
            near = rng.integers(0, 48, (60, 1)) + rng.integers(0, 4, (60, folds))
            far = (near / 8).astype(np.float32)
            highest = limit(known, rate)
            if np.isinf(highest):
                continue
            join = Joined(
                [each.scores for each in known],
                [each.weights for each in known],
                limit=highest,
                enough=enough(known, rate),
            )
            found = join(torch.from_numpy(far)).numpy()
            expected = beyond(p_values(known, far.T), rate)
            assert (found > highest).tolist() == expected.tolist()
            assert expected.any()
            assert ((far.min(axis=1) <= found) & (found <= far.max(axis=1))).all()


def test_a_look_goes_on_from_probabilities(tmp_path: Path) -> None:
    """With the features that the head sees, or the distance; probabilities are as without."""
    path = tmp_path / "w.safetensors"
    save_weights(path, NETWORK.state_dict(), card_of(tta=True))
    classifier: Classifier = load(path)
    photo = tmp_path / "a.png"
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    Image.fromarray(pixels).save(photo)
    [(_, row)] = classifier.look([photo])
    [(_, measured)] = classifier.look([photo], references=[made()])
    assert isinstance(row, np.ndarray)
    assert isinstance(measured, np.ndarray)
    (row,), (measured,) = row, measured  # of one network
    squares = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        features = classifier.network.features(squares).numpy()
    assert row[2:] == pytest.approx(features[0], abs=1e-5)
    assert measured[2:] == pytest.approx(distances(features, made().features), abs=1e-5)
    assert row[:2].tolist() == measured[:2].tolist()
    assert row[:2] == pytest.approx(classifier.predict([photo])[0], abs=1e-6)


def test_a_digest_is_of_tensors() -> None:
    """Whatever the card says; other weights have another."""
    assert digest_of(network_of()) == digest_of(NETWORK)
    assert digest_of(network_of(seed=1)) != digest_of(NETWORK)


def spoiled(name: str, change: Callable[[Any], Any]) -> Callable[[Tensors], Tensors]:
    """Return what changes one tensor of a file."""
    return lambda tensors: tensors | {name: change(tensors[name])}


@pytest.mark.parametrize(
    ("spoil", "about", "says"),
    [
        (spoiled("features", lambda a: a[:, 1:].copy()), {}, "features are of shape"),
        (spoiled("features", lambda a: a[:0]), {}, "features are of shape"),
        (spoiled("features", lambda a: a.astype(float)), {}, "of another type"),
        (spoiled("features", lambda a: a * np.float16("nan")), {}, "no number"),
        (spoiled("distances", lambda a: a / np.float32(0)), {}, "no number"),
        (spoiled("distances", lambda a: a[:0]), {}, "distances are of shape"),
        (spoiled("misfits", lambda a: a[1:].copy()), {}, "not each photo has its numbers"),
        (spoiled("groups", lambda a: a + 1), {}, "groups must be numbered"),
        (spoiled("groups", lambda a: a.astype(float)), {}, "groups must be numbered"),
        (lambda t: {n: v for n, v in t.items() if n != "misfits"}, {}, "misfits"),
        (dict, {"weights": "0" * 64}, "it is of other weights"),
        (dict, {"format_version": 2}, "another version"),
        (dict, None, "no reference that Encore has written"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_file_that_does_not_fit_is_refused(
    spoil: Callable[[Tensors], Tensors],
    about: Mapping[str, Any] | None,
    says: str,
    tmp_path: Path,
) -> None:
    """In one sentence that names the file and what to do."""
    path, written = tmp_path / "w.reference.safetensors", made()
    tensors: Tensors = {
        "features": written.features.astype(np.float16),
        "distances": written.distances,
        "misfits": written.misfits,
        "groups": np.arange(9),
    }
    told = {"format_version": 1, "weights": written.weights, "neighbours": NEIGHBOURS}
    note = {} if about is None else {"encore-reference": json.dumps(told | dict(about))}
    save_file(tensors, path, note)
    if about is not None:
        unspoiled = {"encore-reference": json.dumps(told)}
        save_file(tensors, path, unspoiled)
        assert (
            len(read_references(path, [NETWORK])[0].distances) == 9
        )  # as it should be, it is read
    save_file(spoil(tensors), path, note)
    with pytest.raises(NotOurWeights, match=says) as refused:
        read_references(path, [NETWORK])
    assert "w.reference.safetensors" in str(refused.value)
    assert "make it again, or delete it" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_no_safetensors_is_no_reference(tmp_path: Path) -> None:
    """Nor is a folder; neither is loaded as anything else."""
    (tmp_path / "a").write_bytes(b"\x80\x04]")
    (tmp_path / "b").mkdir()
    for name in "ab":
        with pytest.raises(NotOurWeights, match=name):
            read_references(tmp_path / name, [NETWORK])


@pytest.mark.parametrize("share", [0, 1, -0.1, "much", [0.1]])
def test_a_card_carries_a_share(share: Any) -> None:
    """Between 0 and 1, and older cards none; anything else is refused."""
    plain = json.loads(json.dumps(vars(card_of())))
    del plain["unknown"]
    assert WeightsCard.from_json(json.dumps(plain)).unknown is None
    assert WeightsCard.from_json(json.dumps(plain | {"unknown": 0.05})).unknown == 0.05
    with pytest.raises(NotOurWeights):
        WeightsCard.from_json(json.dumps(plain | {"unknown": share}))
