"""What is learned: how a batch becomes inputs and targets, what the loss is, what counts as right."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.augment import Augment
from data.augment_spec import parse as parse_augment
from data.loader import Batch


class Classification:
    """One class for each image.

    Args:
        shape: (height, width, channels) of the images, in pixels.
        class_names: the name of each label.
        mean, std: per channel, of pixels in 0..1.
        device: where batches are prepared.
        channels_last: memory format of the inputs.
        augment: the text of --augment.
        label_smoothing: share of the target spread over all classes, in training.
        seed: of the augmentation.
        num_samples: size of the training part, which mixing draws partners from.

    Raises:
        ValueError: an augmentation does not fit the images.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        class_names: list[str],
        mean: list[float],
        std: list[float],
        device: torch.device,
        channels_last: bool = True,
        augment: str = "none",
        label_smoothing: float = 0.0,
        seed: int = 0,
        num_samples: int = 1,
    ) -> None:
        self.class_names = class_names
        self.input_shape = (shape[2], shape[0], shape[1])
        self.mean, self.std = mean, std
        self.label_smoothing = label_smoothing
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self._scale = torch.tensor([1 / (255 * s) for s in std], device=device)
        self._shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
        fill = [round(255 * m) for m in mean]
        self.augment = Augment(parse_augment(augment), seed, num_samples, fill)
        first = torch.zeros(1, dtype=torch.int64, device=device)
        # Refuses what does not fit these images, such as a crop wider than they are, before a run has begun.
        self.augment(torch.zeros(1, *shape, dtype=torch.uint8, device=device), first, 0)

    def inputs(self, images: Tensor) -> Tensor:
        """uint8 (B, H, W, C) -> normalised float32 (B, C, H, W)."""
        normalised = torch.addcmul(self._shift, images.float(), self._scale)
        return normalised.permute(0, 3, 1, 2).contiguous(memory_format=self.memory_format)

    def training_batch(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """Augmented inputs, float32 (B, C, H, W), and targets: labels int64 (B,), or float (B, K) where mixed."""
        inputs = self.inputs(self.augment(batch.images, batch.ids, epoch))
        if not self.augment.mixes:
            return inputs, batch.labels
        one_hot = F.one_hot(batch.labels, len(self.class_names)).float()
        (images, partners), (targets, others) = inputs.chunk(2), one_hot.chunk(2)
        return self.augment.mix(images, partners, targets, others, batch.ids.chunk(2)[0], epoch)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The training loss: mean cross-entropy in nats."""
        return F.cross_entropy(logits.float(), targets, label_smoothing=self.label_smoothing)

    def no_totals(self) -> Tensor:
        """Sums over nothing, for `totals` to be added to: float64 where the device has it."""
        device = self._scale.device
        return torch.zeros(3, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)

    def totals(self, loss: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """Sums to add up over batches: (3,) on the device, of losses, right answers, samples.

        Args:
            loss: the batch's mean loss.
            logits: (B, K).
            targets: int64 (B,), or float (B, K), whose largest counts as right.
        """
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        count = torch.full_like(self.no_totals()[0], len(labels))
        correct = (logits.argmax(1) == labels).sum()
        return torch.stack([loss.detach().to(count) * count, correct.to(count), count])

    def score(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The same sums for evaluation: plain cross-entropy, whatever the training loss is smoothed by."""
        return self.totals(F.cross_entropy(logits.float(), labels), logits, labels)

    def test_metrics(self, logits: Tensor, labels: Tensor) -> tuple[dict, np.ndarray]:
        """The figures of the test report, and the probabilities (float32 (N, K)) that they were computed from."""
        from engine.metrics import classification_metrics  # scikit-learn and evaluate take seconds to import

        probabilities = logits.float().softmax(1).numpy()
        return classification_metrics(labels.numpy(), probabilities, self.class_names), probabilities
