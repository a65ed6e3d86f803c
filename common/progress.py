"""What a person sees while something goes on: a live line on a terminal, now and then a line in a log, an epoch's line.

Nothing here makes a device wait at each step: what has to be fetched from it is asked for when it is to be shown.
"""

import time
from collections.abc import Callable, Iterable, Iterator

from common import console
from common.console import duration, note, paint, percent, say

REDRAW = 1.0  # seconds between two states of the live line
QUIET = 30.0  # seconds between two lines in a log, which shows no live line
BAR = (6, 24)  # characters: least and most
NEEDED = 3  # fields that a narrow terminal shows rather than the bar
HEADER = "  epoch  train loss  accuracy  val loss  accuracy     time  images/s"


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
        for place, field in enumerate(fields):
            needs = 2 + len(field) + (0 if place < NEEDED else 2 + BAR[0])
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


class Progress:
    """The line of the epoch under way and the one that it leaves; silent unless `show` (the main process).

    Args:
        show: whether this process speaks at all.
        epochs: of the whole run.
        steps_per_epoch: optimizer steps.
        batch_size: images of a step, over all processes.
    """

    def __init__(self, show: bool, epochs: int, steps_per_epoch: int, batch_size: int) -> None:
        self.show, self.epochs = show, epochs
        self.steps_per_epoch, self.batch_size = steps_per_epoch, batch_size
        self.meter: Meter | None = None
        self.told_columns = False
        self.between_epochs: list[float] = []  # seconds that the ends of epochs took: validation, saving
        self.ended: float | None = None  # when the last epoch's steps were done

    def begin(self, step: int) -> None:
        """Show the epoch that begins, or goes on, with `step` optimizer steps of the run done."""
        if not self.show:
            return
        epoch, done = divmod(step, self.steps_per_epoch)
        if self.ended is not None:
            self.between_epochs.append(time.monotonic() - self.ended)
        self.meter = Meter(f"epoch {epoch + 1}/{self.epochs}", self.steps_per_epoch)
        self.meter.begin(done)

    def step(self, step: int, so_far: Callable[[], tuple[float, float]]) -> None:
        """Show the epoch under way after optimizer step number `step` of the run (from 1).

        Args:
            so_far: the epoch's mean loss and accuracy, called only to show them.
        """
        if not self.show:
            return
        if self.meter is None:
            self.begin(step - 1)
        done = (step - 1) % self.steps_per_epoch + 1
        self.meter.update(done, lambda: self._fields(step, *so_far()))
        if done == self.steps_per_epoch:
            self.close()
            self.ended = time.monotonic()

    def _fields(self, step: int, loss: float, accuracy: float) -> list[str]:
        """What there is to tell, the most important first."""
        figures = [f"loss {loss_text(loss)}", f"accuracy {percent(accuracy, 1)}"]
        each = self.meter.seconds_each()
        if not each:
            return figures
        ends_to_come = self.epochs - (step - 1) // self.steps_per_epoch
        between = sum(self.between_epochs) / max(1, len(self.between_epochs))
        left = (self.epochs * self.steps_per_epoch - step) * each + ends_to_come * between
        times = f"{duration(self.meter.seconds_left())} left, run {duration(left)}"
        return [figures[0], times, figures[1], f"{self.batch_size / each:,.0f} images/s"]

    def close(self) -> None:
        """Take the live line away."""
        if self.meter is not None:
            self.meter.close()
            self.meter = None

    def epoch(self, record: dict, best: bool) -> None:
        """Print an epoch's line, the first one below the columns' names; `record` is its entry in train.json."""
        self.close()
        if not self.show:
            return
        if not self.told_columns:
            say(paint(HEADER, "dim"))
            self.told_columns = True
        loss, accuracy = record["val_loss"], record["val_accuracy"]
        validation = f"{'' if loss is None else loss_text(loss):>8}  {percent(accuracy):>8}"
        number = f"{record['epoch']}/{self.epochs}"
        line = (
            f"{number:>7}  {loss_text(record['train_loss']):>10}  {percent(record['train_accuracy']):>8}  "
            f"{paint(validation, 'green') if best else validation}  {duration(record['seconds']):>7}  "
            f"{record['images_per_second']:>8,.0f}"
        )
        say(line + (paint("  best", "green") if best else ""))

    def say(self, text: str) -> None:
        """Print, from the main process only."""
        if self.show:
            say(text)


def loss_text(loss: float) -> str:
    """A loss in up to eight characters."""
    return f"{loss:.4f}" if abs(loss) < 1000 else f"{loss:.2g}"
