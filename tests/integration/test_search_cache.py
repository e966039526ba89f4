"""A real search on tiny photos: they are decoded once, before the first trial, for all studies."""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.database import open_database
from storage.records import State
from storage.store import Store
from study.config.space import Space
from study.events import Listener, Notice, Progress, SearchStarted, StageStarted, Working
from study.searching.search import search
from study.searching.suggest import views_of
from tests.tiny_training import SEARCH, noise, tensors
from trainers.data import scale
from trainers.data.manifest import DatasetError
from trainers.data.scale import training_scale, validation_scale

TRAIN, VALID = 16, 8
SPACE: dict[str, Any] = {
    "n_stages": [2],
    "image_size": [24, 32],
    "batch_size": [8],
    "crop": ["random", "no"],
    "lrs": [0.01],
}
Searcher = Callable[..., list[Progress]]


class Enough(Exception):
    """A listener's way out, once it has seen what it waited for."""


@pytest.fixture
def searching(tmp_path: Path) -> Searcher:
    """Return what searches photos of noise in a folder of this test's own, and what was told."""
    noise(tmp_path / "photos", TRAIN, VALID)

    def run(listener: Listener = lambda _: None, **settings: Any) -> list[Progress]:
        told: list[Progress] = []

        def listen(news: Progress) -> None:
            told.append(news)
            listener(news)

        given: dict[str, Any] = {
            "data": tmp_path / "photos",
            "storage": url(tmp_path, settings.get("study", "photos")),
            **SEARCH,
            "trials": 2,
            "space": SPACE,
        }
        search(listener=listen, **(given | settings))
        return told

    return run


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Note each photo that is decoded to be looked at."""
    seen: list[Path] = []
    real = scale.read_photo

    def read(path: Path, reduction: int) -> Any:
        seen.append(path)
        return real(path, reduction)

    monkeypatch.setattr(scale, "read_photo", read)
    return seen


def url(folder: Path, study: str) -> str:
    """Return the URL of a study's own database: those of one share what they have trained, too."""
    return f"sqlite:///{folder / 'runs' / study}.db"


def maps(folder: Path) -> dict[str, Path]:
    """Find the files of decoded photos by name."""
    return {path.name: path for path in (folder / "runs" / ".cache").glob("*/*.pixels")}


def works(told: list[Progress], what: str) -> list[tuple[int, int]]:
    """Return the counts told of a work, as (done, of)."""
    return [
        (news.done, news.total) for news in told if isinstance(news, Working) and news.what == what
    ]


def notices(told: list[Progress]) -> list[str]:
    """Return the sentences told, but for the gate's of photos as tiny as these, and deletions."""
    found = [news.text for news in told if isinstance(news, Notice)]
    return [text for text in found if not re.search("^the data: |^deleting |--folds", text)]


def results(folder: Path, study: str) -> tuple[list[Any], dict[str, dict[str, bytes]]]:
    """Return the trials' states, scores and losses, and all tensors of the weights by file name."""
    store = Store(open_database(url(folder, study)))
    trials = store.trials(store.study(study).id)
    store.close()
    files = (folder / "runs" / study).glob("*.safetensors")
    return [(t.state, t.score, t.loss) for t in trials], {f.name: tensors(f) for f in files}


def test_all_photos_are_decoded_once_before_the_first_trial(
    searching: Searcher, decoded: list[Path], tmp_path: Path
) -> None:
    """A map for each way to look at them, each photo read once for all; counted to the end."""
    at_first: list[set[str]] = []

    def look(news: Progress) -> None:
        if isinstance(news, StageStarted):
            at_first.append(set(maps(tmp_path)))

    told = searching(look)
    views = views_of(Space(**SPACE))
    training = {training_scale(view) for view in views}
    names = {f"train-{s.edge}{'-squeezed' if s.squeeze else ''}.pixels" for s in training}
    validation = {validation_scale(view.image_size, view.crop) for view in views}
    names |= {f"valid-{s.edge}{'-squeezed' if s.squeeze else ''}-cut.pixels" for s in validation}
    names |= {"train-128.pixels", "valid-128.pixels"}  # what the data gate looks at
    assert len(names) == 10
    assert at_first[0] == names == maps(tmp_path).keys()
    assert len(decoded) == len(set(decoded)) == TRAIN + VALID
    total = TRAIN + VALID
    for what in ("reading photos", "decoding photos"):
        assert works(told, what) == [(done, total) for done in range(1, total + 1)]
    kinds = [news.what if isinstance(news, Working) else type(news) for news in told]
    assert kinds[0] == "reading photos"
    assert "decoding photos" not in kinds[kinds.index(SearchStarted) :]
    assert notices(told) == []


@pytest.mark.long
def test_without_room_a_search_comes_to_the_same(
    searching: Searcher, tmp_path: Path, decoded: list[Path]
) -> None:
    """With a limit of nothing it says so once, keeps nothing, and is equal to the last bit."""
    searching(study="with")
    cached = maps(tmp_path)
    for path in cached.values():
        path.unlink()
    decoded.clear()
    told = searching(study="without", cache_limit=0)
    assert maps(tmp_path) == {}
    (said,) = notices(told)
    assert said.startswith("decoded photos of 24, 32 px would exceed the cache limit")
    assert "--cache-limit" in said
    assert works(told, "decoding photos") == []
    assert len(decoded) > TRAIN + VALID
    trials, files = results(tmp_path, "with")
    assert [state for state, *_ in trials] == [State.COMPLETE] * 2
    assert len(files) >= 2
    assert results(tmp_path, "without") == (trials, files)


@pytest.mark.long
def test_a_second_study_decodes_nothing_again(
    searching: Searcher, decoded: list[Path], tmp_path: Path
) -> None:
    """Studies of the same data in the same folder of runs share what is decoded."""
    searching(study="one", trials=1)
    before = {
        name: (path.stat().st_ino, path.read_bytes()) for name, path in maps(tmp_path).items()
    }
    decoded.clear()
    told = searching(study="two")
    assert decoded == []
    assert works(told, "decoding photos") == []
    assert works(told, "reading photos")[-1] == (TRAIN + VALID, TRAIN + VALID)
    after = {name: (path.stat().st_ino, path.read_bytes()) for name, path in maps(tmp_path).items()}
    assert after == before
    told = searching(study="three", trials=1, space=SPACE | {"image_size": [24, 40]})
    assert {"train-40-squeezed.pixels", "valid-40-cut.pixels"} <= maps(tmp_path).keys() - before
    assert len(decoded) == TRAIN + VALID


@pytest.mark.long
def test_a_damaged_map_is_made_again(
    searching: Searcher, decoded: list[Path], tmp_path: Path
) -> None:
    """It is named in a sentence, the photos of its split are decoded again, and all is well."""
    searching(trials=1)
    path = maps(tmp_path)["valid-32-cut.pixels"]
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    decoded.clear()
    told = searching(trials=2)
    (said,) = notices(told)
    assert said.startswith(f"{path} is damaged (photo 0 is damaged)")
    assert works(told, "decoding photos") == [(done, VALID) for done in range(1, VALID + 1)]
    assert {photo.parent.parent.name for photo in decoded} == {"valid"}
    assert path.read_bytes() == content
    assert [state for state, *_ in results(tmp_path, "photos")[0]] == [State.COMPLETE] * 2


def test_a_cache_that_cannot_be_is_no_reason_to_stop(searching: Searcher, tmp_path: Path) -> None:
    """Where its folder cannot be made, that is said once, and the search goes on without."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / ".cache").write_text("in the way")
    told = searching(trials=1)
    (said,) = notices(told)
    assert said.startswith(f"decoded photos cannot be stored in {tmp_path / 'runs' / '.cache'}")
    assert [state for state, *_ in results(tmp_path, "photos")[0]] == [State.COMPLETE]


def test_a_presets_photos_are_decoded_too(searching: Searcher, tmp_path: Path) -> None:
    """The preset's sizes are not those of the space, and are not waited for later."""

    def leave(news: Progress) -> None:
        if isinstance(news, StageStarted):
            raise Enough

    with pytest.raises(Enough):
        searching(leave, preset="quick")
    needed = {"train-32-cut.pixels", "train-36.pixels", "valid-32-cut.pixels"}
    assert needed < maps(tmp_path).keys()


def test_a_photo_that_changes_before_it_is_decoded_is_refused(
    searching: Searcher, tmp_path: Path
) -> None:
    """Nothing is trained on it, nothing half is kept, and the study is free for the next run."""
    changed = tmp_path / "photos" / "valid" / "a" / "16.png"
    content = changed.read_bytes()

    def change(news: Progress) -> None:
        if news == Working("reading photos", TRAIN + VALID, TRAIN + VALID):
            changed.write_bytes(content + b"more")

    with pytest.raises(DatasetError, match=r"16\.png' has changed since the data were read"):
        searching(change)
    left = {path.name for path in (tmp_path / "runs" / ".cache").rglob("*") if path.is_file()}
    assert {name for name in left if name.startswith("valid") or name.endswith(".tmp")} == set()
    changed.write_bytes(content)
    searching(trials=1)
    assert [state for state, *_ in results(tmp_path, "photos")[0]] == [State.COMPLETE]


def test_ctrl_c_while_photos_are_decoded_stops_at_once(searching: Searcher, tmp_path: Path) -> None:
    """Millions of photos take long: one Ctrl-C is enough, nothing half is kept, nothing is lost."""

    def interrupt(news: Progress) -> None:
        if news == Working("decoding photos", 3, TRAIN + VALID):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        searching(interrupt)
    left = {path.name for path in (tmp_path / "runs" / ".cache").rglob("*") if path.is_file()}
    assert left <= {"lock"}
    told = searching(trials=1)
    assert works(told, "decoding photos")[-1] == (TRAIN + VALID, TRAIN + VALID)
    assert len(results(tmp_path, "photos")[0]) == 1
