"""How far something is: a live line on a terminal, now and then a line in a log."""

import time
from collections.abc import Callable, Iterable, Iterator

from common import console
from common.console import duration, note, percent

REDRAW = 1.0  # seconds between two states of the live line
QUIET = 30.0  # seconds between two lines in a log, which shows no live line
BAR = (6, 24)  # characters: least and most
NEEDED = 3  # fields that a narrow terminal shows rather than the bar


class Meter:
    """How far one thing is: rewritten in place on a terminal, a line every `QUIET` seconds elsewhere.

    Args:
        title: what is under way.
        total: how many there are of what is counted.
        show: whether to show anything at all (the main process).
    """

    def __init__(self, title: str, total: int, show: bool = True) -> None:
        self.title, self.total, self.done, self.show = title, max(1, total), 0, show
        self.live = show and console.is_live()
        self.next_time = 0.0 if self.live else time.monotonic() + QUIET
        self.start: tuple[float, int] | None = None  # when the first of them was done, and how many were by then

    def begin(self, done: int) -> None:
        """Show that it begins with so many done before."""
        self.done = done
        if self.live:
            self._draw([])

    def update(self, done: int, fields: Callable[[], list[str]] | None = None) -> None:
        """Note that `done` are done; `fields`, what else there is to tell, is called only when it is to be shown.

        Fields are in order of importance: a narrow terminal leaves the last ones out. Without any, the time left.
        """
        if not self.show:
            return
        now = time.monotonic()
        self.done = done
        # From after the first of them, which has more to do than those that follow.
        self.start = self.start or (now, done)
        if now < self.next_time:
            return
        shown = (fields or self._time_left)()
        if self.live:
            self.next_time = now + REDRAW
            self._draw(shown)
        else:
            self.next_time = now + QUIET
            note("  ".join([self.title, percent(self._share(), 0), *shown]))

    def seconds_each(self) -> float:
        """Mean seconds that one of what is counted takes; 0 while that is not known."""
        if self.start is None or self.done <= self.start[1]:
            return 0.0
        return (time.monotonic() - self.start[0]) / (self.done - self.start[1])

    def seconds_left(self) -> float:
        """Until all are done; 0 while that is not known."""
        return self.seconds_each() * (self.total - self.done)

    def _time_left(self) -> list[str]:
        left = self.seconds_left()
        return [f"{duration(left)} left"] if left else []

    def close(self) -> None:
        """Take the line away."""
        if self.live:
            console.clear()

    def _share(self) -> float:
        return min(1.0, self.done / self.total)

    def _draw(self, fields: list[str]) -> None:
        room = console.width() - 1
        text = f"{self.title} {100 * self._share():3.0f} %"
        rest = ""
        for index, field in enumerate(fields):
            needs = 2 + len(field) + (0 if index < NEEDED else 2 + BAR[0])
            if len(text) + len(rest) + needs > room:
                break
            rest += f"  {field}"
        cells = min(BAR[1], room - len(text) - len(rest) - 2)
        if cells >= BAR[0]:
            full = round(cells * self._share())
            filled, empty = "━─" if console.can_show("━─") else "#."
            text += f"  {filled * full}{empty * (cells - full)}"
        console.status(text + rest)


def track(items: Iterable, title: str, total: int, show: bool = True) -> Iterator:
    """The items, with a `Meter` of how many of `total` have been dealt with."""
    meter = Meter(title, total, show)
    meter.begin(0)
    try:
        for done, item in enumerate(items, 1):
            yield item
            meter.update(done)
    finally:
        meter.close()
