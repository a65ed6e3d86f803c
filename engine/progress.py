"""What a person sees while a run goes on: a live bar on a terminal, one line an epoch everywhere."""

import sys

from tqdm import tqdm

from engine.console import outliving_its_reader, say


class Progress:
    """The bar of the epoch under way and the line that it leaves; silent unless `show` (the main process).

    Args:
        show: whether this process speaks at all.
        epochs: of the whole run.
        steps_per_epoch: length of the bar.
        batch_size: images of a step, over all processes.
    """

    def __init__(self, show: bool, epochs: int, steps_per_epoch: int, batch_size: int) -> None:
        self.show, self.epochs = show, epochs
        self.steps_per_epoch, self.batch_size = steps_per_epoch, batch_size
        self.bar: tqdm | None = None

    def step(self, step: int) -> None:
        """Move the bar to after optimizer step number `step` of the run (from 1)."""
        if not self.show or not sys.stderr.isatty():
            return
        epoch, place = divmod(step - 1, self.steps_per_epoch)
        if self.bar is None:
            self.bar = tqdm(
                total=self.steps_per_epoch * self.batch_size,
                initial=place * self.batch_size,
                desc=f"epoch {epoch + 1}/{self.epochs}",
                unit=" images",
                unit_scale=True,
                leave=False,
                dynamic_ncols=True,
            )
        with outliving_its_reader():
            self.bar.update(self.batch_size)

    def figures(self, loss: float, accuracy: float, lr: float) -> None:
        """Show the epoch's mean loss and accuracy so far beside the bar."""
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {loss:.3f}, accuracy {accuracy:.1%}, lr {lr:.2g}", refresh=False)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            with outliving_its_reader():
                self.bar.close()
            self.bar = None

    def epoch(self, record: dict, best: bool) -> None:
        """Print an epoch's line; `record` is its entry in train.json."""
        self.close()
        validation = ""
        if record["val_accuracy"] is not None:
            mark = " (best)" if best else ""
            validation = f"  val loss {record['val_loss']:.4f} accuracy {record['val_accuracy']:.2%}{mark}"
        self.say(
            f"epoch {record['epoch']:>{len(str(self.epochs))}}/{self.epochs}"
            f"  train loss {record['train_loss']:.4f} accuracy {record['train_accuracy']:.2%}{validation}"
            f"  lr {record['lr']:.2g}  {record['seconds']:.1f} s  {record['images_per_second']:,.0f} images/s"
        )

    def say(self, text: str) -> None:
        """Print, from the main process only."""
        if self.show:
            say(text)
