"""How many examples properties are tried on."""

from hypothesis import settings


def examples(count: int) -> int:
    """Return how many examples to try: `count` under Hypothesis's own profile, else a share."""
    return max(1, count * settings.default.max_examples // 100)
