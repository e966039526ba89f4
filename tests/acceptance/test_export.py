"""`export`: a folder that works without this project, from a study or a file, or one sentence."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from markdown_it import MarkdownIt
from PIL import ExifTags, Image

import cli
from study.config.schema import StudyConfig
from study.deployment.model_card import escaped
from study.deployment.predict import Prediction, predict
from study.selection.best import best
from tests.lab import Lab, schedule, stage
from tests.tiny_training import card_of, network_of
from trainers.checkpoint import save_weights
from trainers.classifier import load
from trainers.data.manifest import Manifest
from trainers.reference import Reference, beside, digest_of, distances, rounded, save_references

torch.set_num_threads(1)  # on tiny tensors, threads only wait for each other

ROOT = Path(__file__).parents[2]
HOSTILE = "a|b <script>alert(1)</script> `x` **y** [z](http://z) www.z.de\n# head \\| \u202e $q$"

ISOLATED = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in ("torch", "torchvision", "timm", "safetensors", "trainers", "study", "storage"):
            raise ModuleNotFoundError(f"{name} must not be needed")

sys.meta_path.insert(0, Refuse())
"""
SHOW = """
found, far = look(json.loads(sys.stdin.read()))
print(json.dumps([found.tolist(), decide(found), far.tolist()]))
"""


ORDINARY = ("large", "even", "turned", "small")
"""Photos that need no more than what the shorter example does."""


LABELS = {"kind": "labels", "format_version": "2", "tta": True, "thresholds": (0.5, 0.3)}
"""Of a card of several labels."""


def example(page: str = "docs/exported.md") -> str:
    """Return the Python block of a page that needs onnxruntime."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (block,) = (block for block in blocks if "onnxruntime" in block)
    return str(block)


def weights_file(folder: Path, photos: Sequence[Path] = (), **card: Any) -> Path:
    """Write weights; if there are photos, their answers differ from photo to photo."""
    built, file = network_of(), folder / "mine.safetensors"
    torch.manual_seed(0)
    built.train()(torch.rand(8, 3, 24, 24))
    save_weights(file, built.state_dict(), card_of(**card))
    if photos:
        odds = np.log(load(file).predict(photos))
        margin = odds[:, 0] - odds[:, 1]
        last = built.head[-1]
        with torch.no_grad():
            if card.get("kind") == "labels":  # each by itself, not against the other
                table = load(file).predict(photos)
                last.bias -= torch.from_numpy(np.log(table / (1 - table)).mean(axis=0))
                margin = np.log(table / (1 - table))[:, 0]
            else:
                last.bias[1] += float(margin.mean())
            last.weight.mul_(2 / float(margin.std()))
            last.bias.mul_(2 / float(margin.std()))
        save_weights(file, built.state_dict(), card_of(**card))
    return file


def odd_photos(folder: Path) -> list[Path]:
    """Write photos that become a square in all the ways there are."""
    rng, exif = np.random.default_rng(0), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6

    def noise(width: int, height: int) -> Image.Image:
        pixels = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)

    folder.mkdir()
    for name, size in {"large": (403, 301), "huge": (97, 899), "even": (48, 48)}.items():
        noise(*size).save(folder / f"{name}.jpg")
    noise(200, 123).save(folder / "turned.jpg", exif=exif)
    for name, size in {"strip": (301, 9), "tall": (8, 300), "small": (11, 17)}.items():
        noise(*size).save(folder / f"{name}.png")
    see_through = noise(40, 31).convert("RGBA")
    see_through.putalpha(noise(40, 31).convert("L"))
    see_through.save(folder / "see-through.png", exif=exif)
    noise(31, 40).convert("P").save(folder / "palette.png", transparency=3)
    noise(31, 40).convert("L").save(folder / "grey.png")
    wide = np.asarray(noise(41, 30).convert("L")).astype(np.uint16) * 250 + 77
    Image.fromarray(wide).save(folder / "wide.png")
    return sorted(folder.iterdir())


def export(*arguments: str | Path) -> int:
    """Run the command."""
    return cli.run(["export", *map(str, arguments)])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Path]:
    """Return what exports, once for each crop with and without mirror images, beside photos."""

    @cache
    def make(crop: str, tta: bool) -> Path:
        folder = tmp_path_factory.mktemp("exported")
        rule = {"costs": [[0, 3], [1, 0]], "temperature": 1.7, "reject_cost": 0.4}
        photos = odd_photos(folder / "photos")
        weights = weights_file(folder, photos, crop=crop, tta=tta, decision=rule)
        chosen = ("--weights", weights, "--verify-on", folder / "photos")
        assert export("--to", folder / "exported", *chosen) == 0
        return folder

    return make


@pytest.mark.long
@pytest.mark.parametrize("tta", [False, True], ids=["plain", "mirrored"])
@pytest.mark.parametrize("crop", ["random", pytest.param("no", marks=pytest.mark.slow)])
def test_the_example_gives_our_own_probabilities(
    crop: str, tta: bool, exported: Callable[[str, bool], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block of docs/exported.md needs neither torch nor us, and answers as we do."""
    monkeypatch.chdir(exported(crop, tta))
    photos, weights = sorted(Path("photos").iterdir()), "mine.safetensors"
    about = json.loads(Path("exported/model.json").read_bytes())
    assert about["output"]["mirror_images"] is tta
    assert ("mirror image" in Path("exported/MODEL_CARD.md").read_text()) is tta
    done = subprocess.run(
        [sys.executable, "-I", "-c", ISOLATED + example() + SHOW],
        input=json.dumps([str(path) for path in photos]),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found, answers, far = json.loads(done.stdout)
    assert not any(far)
    ours = load(weights)
    expected = ours.predict(photos)
    assert np.array(found) == pytest.approx(expected, abs=1e-5)
    decided = ours.card.rule.decide(expected).tolist()
    assert answers == [None if index < 0 else ours.classes[index] for index in decided]
    # Each way to answer has been taken; the mean of two views is less extreme.
    assert len(set(answers)) >= (2 if tta else 3)
    assert np.ptp(expected[:, 0]) > (0.1 if tta else 0.3)


@pytest.mark.parametrize(
    ("crop", "tta"),
    [
        ("random", False),
        pytest.param("no", False, marks=pytest.mark.slow),
        pytest.param("random", True, marks=pytest.mark.long),
    ],
)
def test_the_shorter_example_answers_as_we_do(
    crop: str, tta: bool, exported: Callable[[str, bool], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On ordinary photos, be they JPEGs of any size or turned, it prints our own answers."""
    monkeypatch.chdir(exported(crop, tta))
    photos = [path for path in sorted(Path("photos").iterdir()) if path.stem in ORDINARY]
    assert len(photos) == len(ORDINARY)
    weights = "mine.safetensors"
    done = subprocess.run(
        [sys.executable, "-I", "-c", ISOLATED + example("docs/without-encore.md"), *photos],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    ours = load(weights)
    expected = ours.card.rule.calibrated(ours.predict(photos))
    answers = ours.decide(ours.predict(photos))
    for line, path, row, answer in zip(
        done.stdout.splitlines(), photos, expected, answers, strict=True
    ):
        told, _, numbers = line.removeprefix(f"{path} ").partition(" [")
        assert told == (answer or "ask a person")
        assert json.loads(f"[{numbers}") == pytest.approx(row.tolist(), abs=1e-4)


@pytest.mark.long
@pytest.mark.parametrize(
    ("page", "card"),
    [("docs/exported.md", {}), ("docs/exported.md", LABELS), ("docs/without-encore.md", {})],
)
def test_the_examples_call_unlike_photos_unknown(
    page: str, card: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `predict` does, by what lies beside the weights; the model card states the rate."""
    photos = [p for p in odd_photos(tmp_path / "photos") if p.stem in ORDINARY]
    weights = weights_file(tmp_path, photos, **card)
    classifier = load(weights)
    features = np.array([row[0, 2:] for _, row in classifier.look(photos)])
    known = rounded(features[:1])  # of the first photo alone: the others differ from it
    usual = np.linspace(0, np.median(distances(features, known)), 19).astype(np.float32)
    misfits = np.zeros((19, 2) if card else 19, np.float32)
    reference = Reference(digest_of(classifier.network), known, usual, misfits)
    save_references(beside(weights), [reference])
    monkeypatch.chdir(tmp_path)
    assert export("--to", "exported", "--weights", weights, "--unknown", "5%") == 0
    done = subprocess.run(
        [sys.executable, "-I", "-c", ISOLATED + example(page), *photos],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = predict([str(path) for path in photos], weights=weights, unknown=0.05)
    told = [line.partition(" ")[2] for line in done.stdout.splitlines()]
    named = [a.label for a in found.answers if isinstance(a, Prediction)]
    for text, label in zip(told, named, strict=True):
        assert text.startswith("unknown" if label is None else f"{label} ")
    assert 0 < named.count(None) < len(named)
    about = json.loads(Path("exported/model.json").read_bytes())["unknown"]
    assert (about["rate"], about["photos"], about["output"]) == (0.05, 19, "distance")
    assert "at most 5 % of photos like the 19 validation photos" in (
        " ".join(Path("exported/MODEL_CARD.md").read_text().split()).replace("\\", "")
    )


def test_what_is_kept_out_of_the_example_is_out() -> None:
    """The fence around the example holds: torch cannot be imported inside of it."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", ISOLATED + "import torch"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "torch must not be needed" in done.stderr


def cells(markdown: str) -> list[list[str]]:
    """Return the rows of all tables of a Markdown text, as a reader sees them."""
    rows: list[list[str]] = []
    for token in MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and rows and token.level > 3:
            rows[-1].append("".join(child.content for child in token.children or ()))
    return rows


def kinds(markdown: str) -> set[str]:
    """Return the kinds of all pieces of a Markdown text."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown)
    inner = [child for token in tokens for child in token.children or ()]
    return {token.type for token in [*tokens, *inner]}


@pytest.mark.long
def test_a_file_says_only_what_it_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --weights: two formats, a hostile name exact in JSON and harmless in the card."""
    rule = {"costs": [[0, 4], [1, 0]], "temperature": 1.5, "reject_cost": None}
    weights = weights_file(
        tmp_path, classes=(HOSTILE, "\ud800"), decision=rule, made_by={"command": HOSTILE}
    )
    folder = tmp_path / "a" / "exported"
    chosen = ("--format", "onnx", "--format", "torchscript")
    assert export("--to", folder, "--weights", weights, *chosen, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    names = {"model.onnx", "model.pt"}
    assert {file["name"] for file in told["files"]} == names
    assert {path.name for path in folder.iterdir()} == names | {"model.json", "MODEL_CARD.md"}
    assert "squares of noise" in told["verified_on"]
    about = json.loads((folder / "model.json").read_bytes())
    assert about["classes"] == [HOSTILE, "\ud800"]
    assert about["decision"]["threshold"] == pytest.approx(0.2)
    assert (about["decision"]["temperature"], about["weights"]["seed"]) == (1.5, 3)
    assert about["files"] == told["files"]
    assert about["weights"]["sha256"] == told["weights_sha256"]
    props = {each.key: each.value for each in onnx.load(folder / "model.onnx").metadata_props}
    assert json.loads(props["encore"])["classes"] == about["classes"]
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert not kinds(card) & {"html_inline", "html_block", "link_open", "image", "strong_open"}
    shown = HOSTILE.replace("\n", "?").replace("\u202e", "?")
    assert [shown, "0", "4"] in cells(card)
    assert ["command", shown] in cells(card)
    for said in ("temperature 1.5", "says nothing else about its data", "from probability 0.2000"):
        assert said in card
    assert "of 1 trials" not in card


def test_any_text_is_shown_and_does_nothing() -> None:
    """Whatever character a name holds, a reader sees it and Markdown does not."""
    for code in (*range(33, 127), 0xE4, 0x2740):
        text = f"x{chr(code) * 3}y{chr(code)}"
        (row,) = [row for row in cells(f"| a |\n|---|\n| {escaped(text)} |") if row != ["a"]]
        assert row == [text]
    assert escaped("\n\x00") == "??".replace("?", "\\?")
    assert escaped("  ") == "\\(blank\\)"
    assert len(escaped("a" * 10_000)) == 100


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Search once on photos of two classes with names that are markup."""
    folder = tmp_path_factory.mktemp("searched")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("<b>reds|", "blues`*")):
        (folder / "PHOTOS" / name).mkdir(parents=True)
        for index in range(15):
            pixels = rng.integers(label * 60, 196 + label * 60, (30, 36, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "PHOTOS" / name / f"{index}.png")
    (folder / "study.toml").write_text(
        'backbone = "test_resnet"\nweights = "random"\nportfolio = false\n[space]\nn_stages = [1]\n'
        "image_size = [32]\nbatch_size = [8]\nlrs = [0.01]\n"
        "[costs]\nmatrix = [[0, 4], [1, 0]]\nreject = 0.5\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.run(["search", "--data", "PHOTOS", "--trials", "1"]) == 0
    return folder


def test_the_best_of_a_study_is_exported(
    searched: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --weights: what `best` names, compared on its validation photos, with its numbers."""
    monkeypatch.chdir(searched)
    capsys.readouterr()
    assert export("--to", "exported", "--format", "torchscript", "--json") == 0
    told, chosen = json.loads(capsys.readouterr().out), best()
    assert (told["weights"], told["weights_sha256"]) == (chosen.file, chosen.sha256)
    assert told["verified_on"] == f"{chosen.n_valid} validation photos of the study"
    card = (searched / "exported" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert str(searched) not in card
    rows = cells(card)
    assert ["<b>reds|", "9", "3", "3"] in rows  # 60/20/20 of 15
    for name, row in zip(chosen.classes, chosen.confusion, strict=True):
        assert [name, *map(str, row)] in rows
    assert [str(chosen.seed), f"{100 * chosen.score:.1f}"] in rows
    assert f"{chosen.errors} errors on {chosen.n_valid} validation photos" in card
    assert chosen.operation is not None
    about = json.loads((searched / "exported" / "model.json").read_bytes())
    rule = json.loads(json.dumps(chosen.operation.decision.to_dict()))
    assert {name: about["decision"][name] for name in rule} == rule
    assert (rule["reject_cost"], about["decision"]["default"]) == (0.5, False)
    assert f"Estimated cost on new photos: {chosen.operation.cost:.4f} per photo" in card
    (searched / "PHOTOS").rename(searched / "elsewhere")
    try:
        assert export("--to", "exported", "--format", "torchscript", "--json") == 0
    finally:
        (searched / "elsewhere").rename(searched / "PHOTOS")
    assert "squares of noise" in json.loads(capsys.readouterr().out)["verified_on"]


def test_a_folder_of_ours_is_replaced_file_by_file(tmp_path: Path) -> None:
    """A network of older weights does not stay beside the new one; a stranger's file does."""
    weights, folder = weights_file(tmp_path), tmp_path / "exported"
    assert export("--to", folder, "--weights", weights, "--format", "torchscript") == 0
    (folder / "model.pt2").write_text("of other weights")
    (folder / "notes.txt").write_text("mine")
    assert export("--to", folder, "--weights", weights, "--format", "torchscript") == 0
    names = {"model.pt", "model.json", "MODEL_CARD.md", "notes.txt"}
    assert {path.name for path in folder.iterdir()} == names


def test_onnx_that_is_not_installed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence says what to install; the other formats need none of it."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    weights, folder = weights_file(tmp_path), tmp_path / "exported"
    assert export("--to", folder, "--weights", weights) == 2
    said = capsys.readouterr().err
    assert "needs onnxruntime: install encore-search[onnx]" in said
    assert len(said.strip().splitlines()) == 1
    assert not folder.exists()
    assert export("--to", folder, "--weights", weights, "--format", "torchscript") == 0


MISTAKES = [
    (("--weights", "none.safetensors"), 2, "there is no weights file 'none.safetensors'"),
    (("--weights", "foreign.safetensors"), 1, "foreign.safetensors"),
    (("--weights", "mine.safetensors", "--format", "tflite"), 2, "tflite"),
    (("--weights", "mine.safetensors", "--study", "x"), 2, "not both"),
    (("--weights", "mine.safetensors", "--verify-on", "none"), 2, "none of --verify-on"),
    (("--weights", "mine.safetensors", "--verify-on", "empty"), 1, "holds no photos"),
    (("--weights", "mine.safetensors", "--to", "used"), 1, "did not make; give --to"),
    (("--weights", "mine.safetensors", "--to", "like-ours"), 1, "did not make; give --to"),
    (("--weights", "mine.safetensors", "--to", "foreign.safetensors"), 1, "is a file"),
    ((), 5, "run a search first"),
    (("--study", "x"), 5, "search"),
]


@pytest.mark.parametrize(("arguments", "code", "says"), MISTAKES)
def test_wrong_input_is_one_sentence(
    arguments: tuple[str, ...],
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each mistake gives its exit code, names the thing, and leaves no file behind."""
    weights_file(tmp_path)
    (tmp_path / "foreign.safetensors").write_text("weights")
    for name in ("empty", "used", "like-ours"):
        (tmp_path / name).mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("the only copy")
    (tmp_path / "like-ours" / "model.json").write_text('{"made_by": "me"}')
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    ended = cli.run(["export", "--to", "exported", "--format", "torchscript", *arguments])
    said = "".join(capsys.readouterr())
    assert ended == code, said
    assert says in said
    assert "unexpected" not in said
    assert sorted(tmp_path.rglob("*")) == before


def test_no_folder_is_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    """Without --to nothing is written anywhere."""
    assert cli.run(["export"]) == 2
    assert "--to" in capsys.readouterr().err


def test_a_study_without_weights_is_exit_code_5(
    make_lab: Callable[..., Lab], photos: Manifest, tmp_path: Path
) -> None:
    """Nothing to select is told as `best` tells it."""
    lab = make_lab(schedule(stage(64)), manifest=photos)
    lab.search(stop=lambda: True)
    assert export("--to", tmp_path / "exported", "--storage", lab.url) == 5
    assert not (tmp_path / "exported").exists()
    assert lab.url != StudyConfig().storage
