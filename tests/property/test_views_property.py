"""Views of photos: which one a pass shows, and that all trials share them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.augment import draw_view
from trainers.data.passes import draw_passes
from trainers.schedule import Augmentation, Stage


@settings(deadline=None)
@given(
    views=st.integers(1, 12),
    count=st.integers(2, 40),
    seed=st.integers(0, 2**32),
    min_steps=st.integers(1, 12),
)
def test_so_many_passes_show_each_view_of_a_photo_once(
    views: int, count: int, seed: int, min_steps: int
) -> None:
    """Whatever the seed, and however the passes are spread over epochs: a pure function of it."""
    stage = Stage(image_size=8, batch_size=8, frozen=0.5, views=views, min_steps=min_steps)
    labels = np.arange(count) % 2
    shown: list[np.ndarray] = []
    for epoch in range(views):
        place = {"seed": seed, "position": 1, "epoch": epoch}
        for each, again in zip(
            draw_passes(labels, stage, **place), draw_passes(labels, stage, **place), strict=True
        ):
            order, which = np.concatenate(each.photos), np.concatenate(each.views)
            assert which.tolist() == np.concatenate(again.views).tolist()
            shown.append(which[np.argsort(order)])
    assert (np.sort(np.stack(shown[:views]), 0) == np.arange(views)[:, None]).all()


@settings(deadline=None)
@given(view=st.integers(0, 20), count=st.integers(1, 30))
def test_a_view_of_a_photo_is_the_same_among_any_number(view: int, count: int) -> None:
    """It depends on the view and the photo alone, and each view differs from the next."""
    stage = Stage(image_size=8, frozen=0.5, views=3, augmentation=Augmentation.SIDE_ON)
    some, more = draw_view(stage, count, view), draw_view(stage, count + 7, view)
    assert (some == more[:count]).all()
    assert (some != draw_view(stage, count, view + 1)).any()
