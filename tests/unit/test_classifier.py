"""A weights file put to work: the same probabilities as in training, and no trust in the file."""

import json
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image

from study.deployment.predict import predict
from trainers import classifier
from trainers.backbone import Network, build_network
from trainers.card import WeightsCard
from trainers.checkpoint import save_weights
from trainers.classifier import load
from trainers.data.loader import Photos, validation_batches
from trainers.data.manifest import build_manifest
from trainers.data.photo import read_photo
from trainers.decision import Decision
from trainers.device import choose_compute
from trainers.errors import NotOurWeights, UnreadablePhoto
from trainers.loop import evaluate
from trainers.schedule import CropType, Schedule, Stage

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other


def network_of(backbone: str = "test_resnet", hidden: tuple[int, ...] = (8,)) -> Network:
    """Build a tiny network with three classes, whose BatchNorm has seen some photos."""
    stages = (Stage(image_size=24, batch_size=4),)
    schedule = Schedule(backbone=backbone, stages=stages, hidden=hidden, weights="random")
    network = build_network(schedule, 3, 0)
    network.train()(torch.rand(8, 3, 24, 24))
    return network.eval()


def card_of(**fields: Any) -> WeightsCard:
    """Make the card of such a network."""
    plain: dict[str, Any] = {
        "backbone": "test_resnet",
        "hidden": (8,),
        "classes": ("lilies", "roses", "tulips"),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "image_size": 24,
        "crop": "random",
        "schedule": {},
        "schedule_digest": "",
        "manifest_digest": "",
        "seed": 0,
        "stage": 0,
        "epoch": 1,
        "metrics": {},
        "packages": {},
    }
    return WeightsCard(**{**plain, **fields})


def save(path: Path, network: Network | None = None, **fields: Any) -> Path:
    """Write a weights file; `fields` change its card."""
    state = (network or network_of()).state_dict()
    save_weights(path / "best.safetensors", state, card_of(**fields))
    return path / "best.safetensors"


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """Make a photo of coarse noise."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def by_hand(network: Network, photo: Image.Image) -> NDArray[np.float32]:
    """Show the centre of an RGB photo to a network, with nothing but PIL and torch."""
    scale = 24 / min(photo.size)
    size = (round(photo.width * scale), round(photo.height * scale))
    small = photo.resize(size, Image.Resampling.BILINEAR)
    left, top = (small.width - 24) // 2, (small.height - 24) // 2
    pixels = np.array(small.crop((left, top, left + 24, top + 24)))
    with torch.inference_mode():
        logits: torch.Tensor = network(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    probabilities: NDArray[np.float32] = logits.softmax(1).numpy()[0]
    return probabilities


def odd_photos(folder: Path) -> list[Path]:
    """Write a photo in each of the formats that people have."""
    photo, exif = picture(), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    see_through = photo.convert("RGBA")
    see_through.putalpha(photo.convert("L"))
    wide = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    photo.save(folder / "plain.png")
    photo.save(folder / "turned.jpg", exif=exif)
    photo.convert("L").save(folder / "grey.png")
    photo.convert("1").save(folder / "bits.png")
    photo.convert("CMYK").save(folder / "print.jpg")
    see_through.save(folder / "see-through.png")
    see_through.convert("LA").save(folder / "grey-see-through.png")
    photo.convert("P").save(folder / "palette.png", transparency=3)
    photo.convert("P").save(folder / "palette.gif")
    wide.save(folder / "wide.png")
    wide.save(folder / "wide.tif")
    Image.fromarray(np.asarray(wide).astype(np.float32)).save(folder / "float.tif")
    return sorted(folder.iterdir())


def test_photos_of_all_formats(tmp_path: Path) -> None:
    """Files and images opened by PIL alike get the probabilities that the network gives by hand."""
    (tmp_path / "photos").mkdir()
    paths = odd_photos(tmp_path / "photos")
    network, classifier = network_of(), load(save(tmp_path))
    expected = np.stack([by_hand(network, read_photo(path)) for path in paths])
    found = classifier.predict(paths)
    assert found.shape == (12, 3)
    assert found.dtype == np.float32
    assert found == pytest.approx(expected, abs=1e-6)
    assert classifier.predict(map(str, paths)) == pytest.approx(expected, abs=1e-6)
    assert classifier.predict(map(Image.open, paths)) == pytest.approx(expected, abs=1e-6)
    assert len(np.unique(found.round(4), axis=0)) > 6  # it does see what is on them


@pytest.mark.parametrize("crop", CropType)
def test_it_predicts_as_validation_did(crop: CropType, tmp_path: Path) -> None:
    """On the validation photos of a manifest, the probabilities are those of training."""
    for index in range(10):
        label = ("lilies", "roses", "tulips")[index % 3]
        for split in ("train", "valid"):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True, exist_ok=True)
            picture(30 + index, 40 - index, index).save(folder / f"{index}.png")
    manifest, network = build_manifest(tmp_path / "data"), network_of()
    photos, stage = Photos(manifest), Stage(image_size=24, batch_size=4, crop=crop)
    expected, _ = evaluate(network, validation_batches(photos, stage), choose_compute("cpu"))
    paths = [tmp_path / "data" / p.path for p in manifest.photos if p.path.startswith("valid")]
    classifier = load(str(save(tmp_path, crop=crop.value)))
    assert classifier.classes == manifest.classes
    for batch_size in (1, 3, 64):
        found = classifier.predict(paths, batch_size)
        assert found == pytest.approx(expected.probabilities, abs=1e-6)


@pytest.mark.parametrize(
    ("made_by", "device", "precision"),
    [
        ({"device": "NVIDIA H200, bf16"}, "cuda", "bf16"),
        ({"device": "NVIDIA H200, MIG 1g, tf32"}, "cuda", "tf32"),
        ({"device": "NVIDIA H200, bf16"}, "cpu", "fp32"),
        ({"device": "cpu, fp32"}, "cuda", "fp32"),
        ({"device": "odd, auto"}, "cuda", "fp32"),
        ({}, "cuda", "fp32"),
    ],
)
def test_a_gpu_computes_as_in_validation(
    made_by: dict[str, str], device: str, precision: str
) -> None:
    """As the card says of it; without a word, and on other devices, exactly."""
    assert classifier._precision_at(card_of(made_by=made_by), torch.device(device)) == precision


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_it_predicts_with_the_numbers_of_validation(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the device of validation, to the last bit. The CPU plays the GPU."""
    path = save(tmp_path, made_by={"device": f"NVIDIA H200, {precision}"})
    photos = [picture(seed=seed) for seed in range(6)]
    exact = load(path)
    squares = torch.stack([torch.from_numpy(np.array(exact._scale.fit(p))) for p in photos])
    squares = squares.permute(0, 3, 1, 2).float().div_(255)
    batches = [(squares.contiguous(memory_format=torch.channels_last), torch.zeros(6).long())]
    compute = choose_compute("cpu", precision)
    expected = evaluate(exact.network, batches, compute)[0].probabilities
    choose_compute("cpu")
    monkeypatch.setattr(classifier, "_precision_at", lambda card, _: card.precision)
    same = load(path)
    assert np.array_equal(same.predict(photos), expected)
    assert same.rounding(photos) == 0.0
    plain = exact.predict(photos)
    assert exact.rounding(photos) == np.abs(plain - expected).max() > 0
    assert np.array_equal(exact.predict(photos), plain)


@pytest.mark.parametrize(
    ("made_by", "says"),
    [
        ({"device": "a, bf16"}, "in bf16, .* in fp32: .* first 1 photo differ by at most 0.0"),
        ({"device": "a, tf32"}, "in tf32, .* in fp32: "),
        ({}, "^$"),
    ],
)
def test_predict_says_by_how_much_it_differs(
    made_by: dict[str, str], says: str, tmp_path: Path
) -> None:
    """From weights that were validated in a precision that this device has not."""
    picture().save(tmp_path / "a.png")
    weights = save(tmp_path, made_by=made_by)
    found = predict([str(tmp_path / "a.png")], weights=weights, device="cpu")
    assert re.search(says, found.rounding)


def test_an_image_stays_as_it_was(tmp_path: Path) -> None:
    """Predicting changes nothing about an image that the caller goes on using."""
    image = picture()
    image.info["note"] = "mine"
    before = image.tobytes()
    load(save(tmp_path)).predict([image, image.convert("RGBA")])
    assert (image.tobytes(), image.info) == (before, {"note": "mine"})


def test_no_photos_and_no_photo(tmp_path: Path) -> None:
    """No photos give no rows; a file that is no photo says so."""
    classifier = load(save(tmp_path))
    assert classifier.predict([]).shape == (0, 3)
    (tmp_path / "note.jpg").write_text("not a photo")
    with pytest.raises(UnreadablePhoto, match=r"note\.jpg: not an image"):
        classifier.predict([tmp_path / "note.jpg"])
    with pytest.raises(FileNotFoundError):
        classifier.predict([tmp_path / "absent.jpg"])


def test_a_batch_norm_in_evaluation(tmp_path: Path) -> None:
    """What a photo gets does not depend on the others beside it; dropout does not act."""
    classifier = load(save(tmp_path))
    photos = [picture(seed=seed) for seed in range(5)]
    alone = np.concatenate([classifier.predict([photo]) for photo in photos])
    assert classifier.predict(photos) == pytest.approx(alone, abs=1e-6)
    assert alone.sum(axis=1) == pytest.approx(np.ones(5), abs=1e-5)


def test_augmented_is_the_mean_of_a_photo_and_its_mirror_image(tmp_path: Path) -> None:
    """What `augment` gives is what the network gives by hand for both, averaged."""
    network, photo = network_of(), picture(30, 24)  # of the edge's height: nothing is resampled
    sides = [photo, photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    seen, mirrored = (by_hand(network, side) for side in sides)
    assert np.abs(seen - mirrored).max() > 1e-3  # the network does tell them apart
    found = load(save(tmp_path)).predict([photo], augment=True)
    assert found[0] == pytest.approx((seen + mirrored) / 2, abs=1e-6)


def test_decide_uses_the_rule_of_the_weights(tmp_path: Path) -> None:
    """Prices change the class, a reject cost leaves a photo unnamed; else it is the likeliest."""
    rows = np.array([[0.34, 0.33, 0.33], [0.6, 0.3, 0.1], [1.0, 0.0, 0.0]], np.float32)
    assert load(save(tmp_path)).decide(rows) == ["lilies", "lilies", "lilies"]
    # To call a rose a lily costs 10: of the second photo, even the best answer costs 0.7.
    rule = Decision(((0, 1, 1), (10, 0, 1), (1, 1, 0)), reject_cost=0.68)
    priced = load(save(tmp_path, decision=rule.to_dict()))
    assert priced.decide(rows) == ["roses", None, "lilies"]
    assert priced.decide(rows[:0]) == []


def test_a_stream_goes_on_after_what_cannot_be_read(tmp_path: Path) -> None:
    """Each photo comes in turn with its own probabilities, or with its own error."""
    good = [tmp_path / f"{seed}.png" for seed in range(3)]
    for seed, path in enumerate(good):
        picture(seed=seed).save(path)
    note, absent = tmp_path / "note.jpg", tmp_path / "absent.jpg"
    note.write_text("not a photo")
    classifier = load(save(tmp_path))
    expected = classifier.predict(good)
    given = [good[0], note, absent, note, good[1], good[2]]
    for batch_size in (2, 64):  # of two, one batch holds no photo at all
        photos, found = zip(*classifier.stream(given, batch_size), strict=True)
        assert list(photos) == given
        kinds = [type(each) for each in found[1:4]]
        assert kinds == [UnreadablePhoto, FileNotFoundError, UnreadablePhoto]
        rows = np.stack([found[0], *found[4:]])
        assert rows == pytest.approx(expected, abs=1e-6)


def test_a_stream_takes_no_more_than_two_batches_ahead(tmp_path: Path) -> None:
    """A million photos need no more memory than two batches, and the first answers come soon."""
    taken: list[int] = []

    def endless() -> Iterator[Image.Image]:
        while True:
            taken.append(len(taken))
            yield picture()

    stream = load(save(tmp_path)).stream(endless(), 3)
    for _ in range(7):
        next(stream)
    stream.close()
    assert len(taken) == 12  # the third batch is being given, the fourth decoded


def test_one_image_many_times(tmp_path: Path) -> None:
    """An image that PIL has opened but not yet read is read once, by one thread alone."""
    picture(400, 300).save(tmp_path / "photo.jpg")
    classifier = load(save(tmp_path))
    expected = classifier.predict([Image.open(tmp_path / "photo.jpg")])
    image = Image.open(tmp_path / "photo.jpg")
    assert classifier.predict([image] * 16) == pytest.approx(expected.repeat(16, 0), abs=1e-6)


def test_weights_that_give_no_numbers_name_no_class(tmp_path: Path) -> None:
    """Where the arithmetic fails, the fault is the file's: no class is as good as any."""
    with pytest.raises(NotOurWeights, match="give no numbers"):
        load(save(tmp_path, std=(0.0, 0.0, 0.0))).predict([picture()])


def test_the_card_s_normalisation_counts(tmp_path: Path) -> None:
    """Should another timm normalise otherwise, the file still is used as it was trained."""
    network = network_of()
    network.mean.fill_(0.3)
    network.std.fill_(0.2)
    classifier = load(save(tmp_path, network, mean=(0.3,) * 3, std=(0.2,) * 3))
    assert classifier.predict([picture()])[0] == pytest.approx(
        by_hand(network, picture()), abs=1e-6
    )


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    """The fault is the caller's, not the file's, and the message says what to try."""
    with pytest.raises(ValueError, match=r"device 'warp' cannot be used here .*; try cpu"):
        load(save(tmp_path), device="warp")


MISFITS: dict[str, dict[str, Any]] = {
    "a huge layer": {"hidden": (10**9,)},
    "large layers": {"hidden": (65536, 65536, 65536)},
    "many layers": {"hidden": (8,) * 1_000_000},
    "no layer": {"hidden": ()},
    "no number": {"hidden": [[8]]},
    "many classes": {"classes": ("a",) * 100_000},
    "a class less": {"classes": ("roses", "tulips")},
    "a huge backbone": {"backbone": "vit_giant_patch14_224"},
    "another backbone": {"backbone": "test_vit"},
    "a hub": {"backbone": "hf-hub:x/y"},
    "no backbone": {"backbone": "no_such_net"},
    "no name": {"backbone": 5},
    "a huge photo": {"image_size": 10**9},
    "no crop": {"crop": "round"},
    "no mean": {"mean": ("a", "b", "c")},
    "a short deviation": {"std": (1.0, 1.0)},
}


@pytest.mark.parametrize("fields", MISFITS.values(), ids=MISFITS.keys())
def test_a_card_that_does_not_fit_costs_nothing(fields: dict[str, Any], tmp_path: Path) -> None:
    """It is refused before memory is spent on the network that it claims."""
    tensors = {name: value.contiguous() for name, value in network_of().state_dict().items()}
    path, plain = tmp_path / "best.safetensors", {**card_of().__dict__, **fields}
    safetensors.torch.save_file(tensors, path, {"encore": json.dumps(plain)})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(NotOurWeights):
        load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """One tensor missing, one too many, one of another shape: no half-loaded classifier."""
    good = {name: value.contiguous() for name, value in network_of().state_dict().items()}
    path, metadata = tmp_path / "best.safetensors", {"encore": json.dumps(card_of().__dict__)}
    for change in (
        {k: v for k, v in good.items() if k != "body.bn1.bias"},
        {**good, "body.extra": torch.zeros(1)},
        {**good, "head.0.bias": torch.zeros(2)},
        {},
    ):
        safetensors.torch.save_file(change, path, metadata)
        with pytest.raises(NotOurWeights, match="its metadata and its tensors do not fit"):
            load(path)
    safetensors.torch.save_file(good, path, metadata)
    assert load(path).classes == ("lilies", "roses", "tulips")


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    """A pickle, text and a path that leads nowhere are refused alike."""
    torch.save(network_of().state_dict(), tmp_path / "pickle.safetensors")
    (tmp_path / "text.safetensors").write_text("weights")
    for name in ("pickle.safetensors", "text.safetensors", "absent.safetensors", "."):
        with pytest.raises(NotOurWeights):
            load(tmp_path / name)
