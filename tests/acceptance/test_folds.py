"""Searching in folds by the command line: every command knows what the study and its file are."""

import json
from pathlib import Path

import pytest

import cli
from tests.scenes import save, scene
from trainers.card import read_card


def test_a_search_in_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the suggestion to the export: 3 folds judge all photos but those of test."""
    monkeypatch.chdir(tmp_path)
    for number in range(40):
        kind = ("day", "night")[number % 2]
        save(scene(number, 48, 40), Path("photos") / kind / f"{number}.jpg", quality=90)
    Path("study.toml").write_text(
        'backbone = "test_resnet"\nweights = "random"\nportfolio = false\n[space]\nn_stages = [1]\n'
        "image_size = [32]\nbatch_size = [8]\nlrs = [0.001]\ncycle_len = [1, 2]\n"
    )

    def told(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        assert cli.run(words) == code, capsys.readouterr().err
        found = capsys.readouterr()
        return " ".join((found.out if code == 0 else found.err).split())

    assert "--folds 5 would score each schedule on all 32" in told("check-data", "photos")
    where = ("search", "--data", "photos", "--devices", "cpu", "--trials", "2", "--study", "mine")
    assert cli.run((*where, "--folds", "3")) == 0
    assert "32 in 3 folds, 8 test" in " ".join(capsys.readouterr().err.split())
    assert "is searched in 3 folds; give --folds 3" in told(*where, code=2)
    assert cli.run((*where, "--folds", "3")) == 0  # again: there is nothing left to do

    text = told("best")
    assert "on 32 validation photos" in text
    assert "3 folds: each photo judged by the network trained without its fold" in text
    assert "trained one network on all photos: " in text
    chosen = json.loads(told("best", "--json"))
    assert (chosen["n_valid"], chosen["folds"]) == (32, 3)
    assert read_card(Path(chosen["file"])).folds == 3
    assert "a soup is of files with one network each" in told("best", "--soup", code=2)
    assert "ensemble of" in told("best", "--ensemble", "2")
    assert "on 8 test photos" in told("best", "--final-test")
    assert "on 32 photos, those of all 3 folds" in told("best", "--refit", "--copy-to", "all")
    (refitted,) = Path("all").glob("refit_*.safetensors")
    assert read_card(refitted).folds == 0

    for words in (("ls",), ("show", "0"), ("tree",), ("report",), ("compare", "0", "1")):
        told(*words)
    for file in (chosen["file"], str(refitted)):
        rows = told("predict", "photos/day", "--weights", file, "--json")
        assert len(json.loads(rows)["predictions"]) == 20
    told("explain", "--to", "why", "--top", "3")
    told("export", "--to", "out", "--format", "torchscript")
    assert "dealt into 3 folds" in next(Path("out").glob("*.md")).read_text(encoding="utf-8")
