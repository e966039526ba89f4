"""Another classifier's answers from a CSV: found whatever the dialect, or refused in a sentence."""

from collections.abc import Callable
from pathlib import Path

import pytest

from study.errors import ConfigError
from study.selection import predictions_csv
from study.selection.predictions_csv import read_answers
from trainers.labels import SEVERAL

CLASSES = ("roses", "tulips ❀")
PHOTOS = ("valid/roses/1.png", "valid/roses/x, y.png", "valid/tulips ❀/1.png")
EXPECTED = [0, 1, 1]

Csv = Callable[[str | bytes], Path]


@pytest.fixture
def csv(tmp_path: Path) -> Csv:
    """Return what writes a CSV."""

    def write(text: str | bytes) -> Path:
        path = tmp_path / "answers.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def read(path: Path) -> list[int]:
    """Read answers for the photos."""
    found = read_answers(path, PHOTOS, CLASSES)
    assert found.dtype == int
    return found.tolist()


LABELS = (
    "path,predicted\nvalid/roses/1.png,roses\n"
    '"valid/roses/x, y.png",tulips ❀\nvalid/tulips ❀/1.png,tulips ❀\n'
)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\n\n") + " , \n",
        lambda text: text.replace("/", "\\"),
        lambda text: text.replace("valid/", "./valid//"),
        lambda text: text.replace("path,predicted", " File , CLASS "),
        lambda text: text.replace("path", "image").replace("predicted", "label"),
        lambda text: text.replace(",roses", ", roses "),
        lambda text: text.replace("1.png,", '"1.png",').replace('/"1.png"', "/1.png"),
        lambda text: text + "train/roses/1.png,tulips ❀\nelsewhere.png,roses\n",
        lambda text: text + "valid/roses/1.png,roses\n",
        lambda text: "\n".join([text.split("\n")[0], *reversed(text.split("\n")[1:])]),
    ],
    ids=[
        *("as it is", "a BOM", "Windows line ends", "blank lines", "backslashes", "odd slashes"),
        *("other names", "yet others", "blanks", "quotes", "extra rows", "twice alike", "reversed"),
    ],
)
def test_a_list_of_labels_is_read(csv: Csv, change: Callable[[str], str]) -> None:
    """However it was written, each photo gets the class that its row names."""
    assert read(csv(change(LABELS))) == EXPECTED


def test_the_largest_number_is_the_answer(csv: Csv) -> None:
    """A column for each class, in any order, with others between, as `predict --csv` writes."""
    text = "path,tulips ❀,note,roses,label\n"
    for photo, values in zip(PHOTOS, ("0.1,,0.9", "1e-3,x,-5", "2, ,1e-9"), strict=True):
        text += f'"{photo}",{values},nobody reads this\n'
    assert read(csv(text)) == EXPECTED


@pytest.mark.parametrize(
    "rows",
    [
        "path,labels\n1.png, b ;a\n2.png,\n3.png,b\n",
        "path,a,b\n1.png,1,0.5\n2.png,0,0.49\n3.png,0.1,1\n",
        "path,a,predicted,b\n1.png,0.1,a;b,0.1\n2.png,1,,1\n3.png,0.9,b,0.3\n",
    ],
    ids=["names", "numbers", "names before numbers"],
)
def test_several_labels_are_read(csv: Csv, rows: str) -> None:
    """By name, or by a number for each: an answer for each photo and label."""
    found = read_answers(csv(rows), ("1.png", "2.png", "3.png"), ("a", "b"), SEVERAL)
    assert (found % 2).tolist() == [1, 1, 0, 0, 0, 1]
    assert (found // 2).tolist() == [0, 1] * 3


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("path,labels\n1.png,a;x\n", "row 2 of .+ names 'x', which is none of the labels a, b"),
        ("path,a,b\n1.png,3.2,-1\n", "row 2 of .+ must have a probability from 0 to 1"),
        ("path,a\n1.png,1\n", "a column predicted, or one for each of the labels a, b"),
    ],
)
def test_several_labels_that_cannot_be_read_are_refused(csv: Csv, rows: str, says: str) -> None:
    """Unknown names, and numbers that are no probabilities."""
    with pytest.raises(ConfigError, match=says):
        read_answers(csv(rows), ("1.png",), ("a", "b"), SEVERAL)


def test_a_file_name_is_enough_where_it_is_the_only_one(csv: Csv) -> None:
    """In another folder, too; but 1.png is two photos' name, so both must be told apart."""
    rows = "path,label\n/home/me/x, y.png,tulips ❀\n".replace("/home/me/x, y.png", '"/me/x, y.png"')
    paths = "valid/roses/1.png,roses\nvalid/tulips ❀/1.png,tulips ❀\n"
    assert read(csv(rows + paths)) == EXPECTED
    with pytest.raises(ConfigError, match=r"2 have none, such as 'valid/roses/1.png'"):
        read(csv(rows + "1.png,roses\n"))
    with pytest.raises(ConfigError, match=r"1 have none, such as 'valid/roses/x, y.png'"):
        read(csv(rows + '"other/x, y.png",roses\n' + paths))  # which of the two is it?


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "must have a header and a row for each photo"),
        ("\n\n", "must have a header and a row for each photo"),
        ("path,predicted\n", "must have a header and a row for each photo"),
        ("name,predicted\na,roses\n", "a header with a column path, got 'name', 'predicted'"),
        ("path;predicted\na;roses\n", "with a column path, got 'path;predicted'"),
        ("path,tulips ❀\na,0.5\n", "a column predicted, or one for each of the classes roses, tul"),
        (LABELS + "a.png,daisies\n", "row 5 of .+ names 'daisies', which is none of the classes"),
        (LABELS + "a.png,Roses\n", "names 'Roses', which is none of the classes roses, tulips"),
        (LABELS + f"a.png,{'x' * 9999}\n", "row 5"),
        (LABELS + "valid/roses/1.png,tulips ❀\n", "row 5 of .+ lists 'valid/roses/1.png' again"),
        (LABELS + "a.png\n", "row 5 of .+ must have 2 cells as its header has, got 1"),
        (LABELS + "a.png,roses,0.5\n", "must have 2 cells as its header has, got 3"),
        ("path,predicted\nvalid/roses/1.png,roses\n", "2 have none, such as 'valid/roses/x, y.png"),
        ("path,roses,tulips ❀\na,0.5,\n", "row 2 of .+ must have a number for each class"),
        ("path,roses,tulips ❀\na,0.5,nan\n", "row 2 of .+ must have a number for each class"),
        ("path,roses,tulips ❀\na,0.5,=1+1\n", "row 2 of .+ must have a number for each class"),
        ('path,predicted\n"a,roses\n', "not a readable CSV in UTF-8"),
        ('path,predicted\n"a"b,roses\n', "not a readable CSV in UTF-8"),
        (LABELS.encode("utf-16"), "not a readable CSV in UTF-8"),
        (LABELS.replace("❀", "ü").encode("latin-1"), "not a readable CSV in UTF-8"),
        (f"path,predicted\n{'a' * 200_000},roses\n", "not a readable CSV in UTF-8: field larger"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "must have|not a readable"),
        ("path,predicted\n\x1b[31mred\x00,\x1b[0m[red]\n", r"names '\\x1b\[0m\[red\]'"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(
    csv: Csv, text: str | bytes, says: str
) -> None:
    """It names file, row and value, prints on a terminal, and is short whatever is in the file."""
    path = csv(text)
    with pytest.raises(ConfigError, match=says) as error:
        read(path)
    said = str(error.value)
    assert str(path) in said
    assert said.isprintable()
    assert len(said) < 600
    assert not said.endswith(".")


def test_a_file_that_is_none_is_an_error_of_files(
    csv: Csv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing, a folder, or larger than any list of answers: told before it is read."""
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        read(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OSError, match=r"folder\.csv"):
        read(tmp_path / "folder.csv")
    monkeypatch.setattr(predictions_csv, "LARGEST", 20)
    with pytest.raises(ConfigError, match="must have at most"):
        read(csv(LABELS))
