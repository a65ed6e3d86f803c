"""Names that a mistyped one may have meant."""

import difflib
from collections.abc import Iterable, Sequence


def near(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The known names that are most like `name`, best first; none where nothing is like it."""
    return difflib.get_close_matches(name, list(known), n=most)


def did_you_mean(names: Sequence[str], before: str = "", after: str = "") -> str:
    """A question between `before` and `after`; nothing at all where there are no names."""
    return f"{before}did you mean {' or '.join(names)}?{after}" if names else ""
