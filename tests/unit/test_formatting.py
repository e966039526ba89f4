"""Numbers as people read them."""

import pytest

from study.formatting import size_text


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (84_300_000, "84.3 MB"),
        (1_200_000_000, "1.2 GB"),
    ],
)
def test_a_size_has_the_unit_that_fits(size: int, said: str) -> None:
    """Nothing that is there is said to be 0.0 of something."""
    assert size_text(size) == said
