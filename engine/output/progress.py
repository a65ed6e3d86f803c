"""What a person sees of the loop: the live line of the epoch under way, and the line that each epoch leaves.

Nothing here makes a device wait at each step: what has to be fetched from it is asked for when it is to be shown.
"""

import time
from collections.abc import Callable

from common.console import duration, paint, percent, say
from common.progress import Meter

HEADER = "  epoch  train loss  accuracy  val loss  accuracy     time  images/s"


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

    def step(self, step: int, so_far: Callable[[], dict[str, float]]) -> None:
        """Show the epoch under way after optimizer step number `step` of the run (from 1).

        Args:
            so_far: the epoch's metrics, called only to show them.
        """
        if not self.show:
            return
        if self.meter is None:
            self.begin(step - 1)
        done = (step - 1) % self.steps_per_epoch + 1
        self.meter.update(done, lambda: self._fields(step, so_far()))
        if done == self.steps_per_epoch:
            self.close()
            self.ended = time.monotonic()

    def _fields(self, step: int, metrics: dict[str, float]) -> list[str]:
        """What there is to tell, the most important first."""
        texts = [f"loss {loss_text(metrics['loss'])}", f"accuracy {percent(metrics['accuracy'], 1)}"]
        each = self.meter.seconds_each()
        if not each:
            return texts
        ends_to_come = self.epochs - (step - 1) // self.steps_per_epoch
        between = sum(self.between_epochs) / max(1, len(self.between_epochs))
        left = (self.epochs * self.steps_per_epoch - step) * each + ends_to_come * between
        times = f"{duration(self.meter.seconds_left())} left, run {duration(left)}"
        return [texts[0], times, texts[1], f"{self.batch_size / each:,.0f} images/s"]

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
