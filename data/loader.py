"""Which samples a process sees at which step, and their way from the uint8 arrays into batches.

The order of samples is a permutation of (seed, epoch); a global batch is a slice of it, and each process takes its
own part of every global batch. So the samples of a step depend neither on the number of processes nor on where a
run was resumed.

Where samples are repeated N times, N epochs have one permutation: each shows a part of it, every sample N times in a
row, augmented as for each of those epochs. So N epochs show what they show without repeats, in another order.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.arrays import Arrays
from data.augment.boxes import RandomCrop
from data.augment.draws import Epoch
from data.dataset import Subset
from data.live import LiveImages
from data.workers import loader


@dataclass
class Batch:
    """Samples on their way to the model.

    Attributes:
        images: uint8 (B, H, W, C).
        labels: int64 (B,).
        ids: int64 (B,), the samples' rows in their split. In a training batch that mixes images, the second half
            of each of the three holds the partners of the first.
        cropped: whether the images are random crops of photos, so that --augment rrc is done.
        epochs: int64 (B,), which augmentation is drawn for; None: the epoch under way, for all.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor
    cropped: bool = False
    epochs: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`; from pinned memory the copy does not wait."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """Called by DataLoader before a batch goes to a GPU."""
        return self.each(Tensor.pin_memory)

    def drawn_for(self, epoch: int, samples: slice = slice(None)) -> Epoch:
        """The epoch that augmentation is drawn for while `epoch` is under way, of some of the samples."""
        return epoch if self.epochs is None else self.epochs[samples]

    def each(self, moved: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with each of its tensors put through `moved`."""
        epochs = None if self.epochs is None else moved(self.epochs)
        return Batch(moved(self.images), moved(self.labels), moved(self.ids), self.cropped, epochs)


class Draw(NamedTuple):
    """The samples of a batch, ids int64 (B,), and the epoch (from 0) that augmentation is drawn for, or each one's,
    int64 (B,); None in evaluation."""

    ids: np.ndarray
    epoch: int | np.ndarray | None = None


class ImageDataset(Dataset):
    """The images of a split, batch by batch: of decoded ones a batch is one gather.

    `crop` is cut out of photos that are decoded as they are asked for, while they are trained on.
    """

    def __init__(self, arrays: Arrays, crop: RandomCrop | None = None) -> None:
        live = isinstance(arrays.images, LiveImages)
        self.images = arrays.images if live else torch.from_numpy(arrays.images)
        self.labels = torch.from_numpy(arrays.labels)
        self.crop = crop

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, draw: Draw) -> Batch:
        return self.batch(*draw)

    def batch(self, ids: np.ndarray, epoch: int | np.ndarray | None = None) -> Batch:
        """The samples `ids`, int64 (B,); see `Draw`."""
        ids = np.ascontiguousarray(ids)
        rows = torch.from_numpy(ids)
        epochs = torch.from_numpy(epoch) if isinstance(epoch, np.ndarray) else None
        cropped = False
        if isinstance(self.images, Tensor):
            images = self.images[rows]
        elif self.crop is None or epoch is None:
            images = torch.from_numpy(self.images[ids])
        else:
            drawn_for = epoch if epochs is None else epochs
            images, cropped = torch.from_numpy(self.images.crops(ids, self.crop, drawn_for)), True
        return Batch(images, self.labels[rows], rows, cropped, epochs)


def epoch_order(ids: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch (from 0) sees `ids`: a permutation that is a function of (seed, epoch) alone."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(ids)


def balanced_order(ids: np.ndarray, labels: np.ndarray, power: float, seed: int, epoch: int) -> np.ndarray:
    """As many samples in an order that is a function of (seed, epoch), rare classes more often.

    A class's share is proportional to the number of its images to a power: 1 as they are, 0 all the same. Each of its
    images is drawn as often as any other of it, or once more.
    """
    random = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    classes, counts = np.unique(labels, return_counts=True)
    exact = len(ids) * counts**power / (counts**power).sum()
    wanted = np.floor(exact).astype(int)
    wanted[np.argsort(wanted - exact, kind="stable")[: len(ids) - wanted.sum()]] += 1  # the largest remainders
    drawn = []
    for label, count in zip(classes, wanted, strict=True):
        own = ids[labels == label]
        rounds = [random.permutation(own) for _ in range(-(-count // len(own)))]
        drawn += [*rounds[:-1], rounds[-1][: count - len(own) * (len(rounds) - 1)]] if rounds else []
    return random.permutation(np.concatenate(drawn))


class MicroBatches:
    """How many micro-batches a sampler yields, and of how many images, from its steps and its share of them."""

    start_step: int
    total_steps: int
    global_batch_size: int
    accumulate: int
    num_processes: int
    partners: Callable[[Tensor, Epoch], Tensor] | None

    def __len__(self) -> int:
        return (self.total_steps - self.start_step) * self.accumulate

    @property
    def micro_batch_size(self) -> int:
        """Images of one micro-batch of this process, without partners."""
        return self.global_batch_size // (self.num_processes * self.accumulate)

    @property
    def images_at_once(self) -> int:
        """The same with partners."""
        return self.micro_batch_size * (1 if self.partners is None else 2)


@dataclass
class TrainSampler(MicroBatches):
    """Yields one micro-batch after another for one process, from `start_step` to the end of the run.

    Attributes:
        ids: int64 (N,), the training samples.
        seed: of the order.
        start_step, total_steps: optimizer steps; an epoch has N // global_batch_size of them (the rest of a
            permutation, fewer samples than a batch, is left out of that epoch).
        global_batch_size: samples of a step over all processes and micro-batches.
        accumulate: micro-batches of a step.
        rank, num_processes: this process among all.
        partners: (ids, epoch) -> positions in `ids` of the images to mix with, or None.
        labels: int64 (N,) of the samples, for `balance`: the power of a class's images that its share goes by.
        repeats: times that a sample follows itself in the order; they divide the global batch size.
    """

    ids: np.ndarray
    seed: int
    start_step: int
    total_steps: int
    global_batch_size: int
    accumulate: int
    rank: int
    num_processes: int
    partners: Callable[[Tensor, Epoch], Tensor] | None = None
    labels: np.ndarray | None = None
    balance: float = 1.0
    repeats: int = 1
    _order: tuple[int, np.ndarray] = field(default=(-1, np.empty(0)), repr=False)  # of the epoch last asked for

    def __iter__(self) -> Iterator[Draw]:
        for step in range(self.start_step, self.total_steps):
            ids, epochs = (np.split(numbers, self.accumulate) for numbers in (self.ids_at(step), self._epochs_at(step)))
            for micro_batch, epochs_of_each in zip(ids, epochs, strict=True):
                # One of all is cheaper to draw for.
                epoch = epochs_of_each if self.repeats > 1 else step // self.steps_per_epoch
                yield self._with_partners(micro_batch, epoch)

    @property
    def steps_per_epoch(self) -> int:
        return len(self.ids) // self.global_batch_size

    def ids_at(self, step: int) -> np.ndarray:
        """This process's samples of an optimizer step, int64, in order."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        share = self.global_batch_size // self.num_processes
        start = step_of_epoch * self.global_batch_size + self.rank * share
        if epoch != self._order[0]:
            self._order = (epoch, self._order_of(epoch))
        return self._order[1][start : start + share]

    def _epochs_at(self, step: int) -> np.ndarray:
        """The epoch that the augmentation of each of them is drawn for, int64."""
        epoch, share = step // self.steps_per_epoch, self.global_batch_size // self.num_processes
        return epoch - epoch % self.repeats + (self.rank * share + np.arange(share)) % self.repeats

    def _order_of(self, epoch: int) -> np.ndarray:
        """The samples of an epoch, each as often as it is repeated."""
        # An order lasts for as many epochs as a sample has repeats.
        number, part = divmod(epoch, self.repeats)
        if self.balance == 1 or self.labels is None:
            order = epoch_order(self.ids, self.seed, number)
        else:
            order = balanced_order(self.ids, self.labels, self.balance, self.seed, number)
        length = self.steps_per_epoch * self.global_batch_size // self.repeats
        return np.repeat(order[part * length :][:length], self.repeats)

    def _with_partners(self, ids: np.ndarray, epoch: int | np.ndarray) -> Draw:
        if self.partners is None:
            return Draw(ids, epoch)
        several = isinstance(epoch, np.ndarray)
        positions = self.partners(torch.from_numpy(ids), torch.from_numpy(epoch) if several else epoch).numpy()
        return Draw(np.concatenate([ids, self.ids[positions]]), np.tile(epoch, 2) if several else epoch)


def train_loader(
    part: Subset, sampler: TrainSampler, workers: int, pin_memory: bool, crop: RandomCrop | None = None
) -> DataLoader:
    """One loader for the whole rest of a run, so that workers and prefetching go on across epochs.

    `crop` is cut out of photos that are decoded at every step; of decoded images whoever augments them cuts it out.
    """
    return loader(ImageDataset(part.arrays, crop), sampler, workers, pin_memory)


def eval_loader(part: Subset, batch_size: int, rank: int, num_processes: int, pin_memory: bool) -> DataLoader:
    """This process's share of a part, in order; every process gets equally many batches.

    Shares are filled up by repeating the last sample. Repeats are at the end of the last processes' shares:
    the first `len(part)` rows of all shares, one after another, are the part itself.
    """
    rows, _ = eval_rows(len(part), rank, num_processes)
    ids = part.ids[rows]
    batches = [Draw(ids[i : i + batch_size]) for i in range(0, len(ids), batch_size)]
    return loader(ImageDataset(part.arrays), batches, 0, pin_memory)


def eval_rows(length: int, rank: int, num_processes: int) -> tuple[np.ndarray, int]:
    """Which rows of a part of `length` a process evaluates, and how many of them, the first, are no repeats."""
    share = -(-length // num_processes)
    rows = np.arange(rank * share, (rank + 1) * share)
    return np.minimum(rows, length - 1), min(max(length - rank * share, 0), share)
