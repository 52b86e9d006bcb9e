"""How many examples Hypothesis tries."""

from __future__ import annotations

from hypothesis import settings


def examples(most: int) -> int:
    """Return how many of ``most`` examples to try: all of them where slow tests run too."""
    chosen = settings.get_current_profile_name()
    return most if chosen == "full" else max(10, most * 3 // 10)
