"""Predictions survive packing: what is decided on them never changes."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from storage import predictions
from storage.predictions import Form, decode, encode
from trainers.metrics import Evaluation


@st.composite
def evaluations(draw: st.DrawFn) -> Evaluation:
    """Any probabilities in [0, 1], near ties and all, on 0 to 20 photos of 1 to 300 classes."""
    photos = draw(st.integers(0, 20))
    classes = draw(st.sampled_from([1, 2, 3, 256, 257, 300]))
    # Few distinct numbers, some closer than float16 can tell: ties are the rule.
    numbers = st.one_of(
        st.sampled_from([0.0, 0.5, 0.50001, 0.99999, 1.0]), st.floats(0, 1, width=32)
    )
    table = draw(arrays(np.float32, (photos, classes), elements=numbers))
    labels = draw(arrays(np.int64, photos, elements=st.integers(0, classes - 1)))
    return Evaluation(labels, table)


def near(given: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    """Whether numbers agree as well as float16 can."""
    return np.allclose(given, expected, rtol=1e-3, atol=1e-7)


@given(evaluations())
@example(Evaluation(np.array([0]), np.array([[0.5, 0.50001]], np.float32)))
def test_full_form_keeps_the_decision_and_all_probabilities(evaluation: Evaluation) -> None:
    """Predicted classes come back exactly, all probabilities to float16."""
    form, blob = encode(evaluation)
    back = decode(form, blob, evaluation.labels)
    rows = np.arange(len(evaluation.labels))
    assert form is Form.FULL
    assert back.predicted.dtype == np.int64
    np.testing.assert_array_equal(back.predicted, evaluation.predicted)
    assert back.probabilities is not None
    assert near(back.probabilities, evaluation.probabilities)
    assert near(back.confidence, evaluation.probabilities[rows, evaluation.predicted])
    assert near(back.true_probability, evaluation.probabilities[rows, evaluation.labels])


@given(evaluations())
def test_compact_form_keeps_the_decision_and_two_probabilities(evaluation: Evaluation) -> None:
    """Of a big validation set the same comes back, but for the table of probabilities."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictions, "FULL_LIMIT", -1)
        form, blob = encode(evaluation)
    back = decode(form, blob, evaluation.labels)
    rows = np.arange(len(evaluation.labels))
    assert form is Form.COMPACT
    assert back.probabilities is None
    np.testing.assert_array_equal(back.predicted, evaluation.predicted)
    assert near(back.confidence, evaluation.probabilities[rows, evaluation.predicted])
    assert near(back.true_probability, evaluation.probabilities[rows, evaluation.labels])


def test_big_validation_set_takes_the_compact_form_by_itself() -> None:
    """Beyond two million probabilities an epoch takes at most 8 bytes a photo."""
    rng = np.random.default_rng(0)
    table = rng.random((2001, 1000), np.float32)
    form, blob = encode(Evaluation(rng.integers(0, 1000, 2001), table))
    assert form is Form.COMPACT
    assert len(blob) < 8 * 2001


@given(st.binary(max_size=200), st.sampled_from([*Form, "other"]), st.integers(0, 5))
def test_bytes_that_are_no_predictions_are_refused(blob: bytes, form: str, photos: int) -> None:
    """Whatever bytes are found in the database, the answer is a ValueError."""
    with pytest.raises(ValueError):  # noqa: PT011 - the sentence differs with what is wrong
        decode(form, blob, np.zeros(photos, np.int64))


@given(evaluations(), st.data())
def test_a_damaged_byte_never_gives_an_invalid_class(
    evaluation: Evaluation, data: st.DataObject
) -> None:
    """A flipped byte is either refused or still gives classes that exist."""
    form, blob = encode(evaluation)
    place = data.draw(st.integers(0, len(blob) - 1))
    damaged = blob[:place] + bytes([blob[place] ^ 0x55]) + blob[place + 1 :]
    try:
        back = decode(form, damaged, evaluation.labels)
    except ValueError:
        return
    assert back.predicted.max(initial=0) < max(struct.unpack_from("<I", damaged, 9)[0], 1)


def test_a_zip_bomb_is_not_unpacked() -> None:
    """A small blob that would unpack to much more than its header says is refused unread."""
    bomb = struct.pack("<4sBII", b"ENCP", 1, 1, 2) + zlib.compress(bytes(50_000_000), 9)
    with pytest.raises(ValueError, match="must unpack to 5 bytes, got 6"):
        decode(Form.FULL, bomb, np.zeros(1, np.int64))


def test_labels_must_be_those_the_predictions_were_made_with() -> None:
    """Labels of another number of photos, or beyond the classes, are refused."""
    form, blob = encode(Evaluation(np.array([0, 1]), np.eye(2, dtype=np.float32)))
    with pytest.raises(ValueError, match="2 photos, but 3 labels"):
        decode(form, blob, np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="from 0 to 1"):
        decode(form, blob, np.array([0, 2]))
