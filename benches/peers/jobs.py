"""What is trained: the images, the network, and when it is over."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Job:
    """One comparison.

    Attributes:
        title: one line for people.
        dataset: a name that `--dataset` of train.py takes.
        network: the same for all peers, by timm's name; None: each peer's own choice.
        size: side of the network's input, in pixels.
        stored: (height, width) in pixels of the files that are written, JPEGs; None: as the data set has them, PNGs.
        train, val: images to train on and to validate on after each epoch.
        batch_size: images of a step; a peer whose network is its own has one of its own.
        epochs: that are waited for.
        seconds: from the start of the process to its end; None: until the epochs are over.
        target: accuracy, 0..1, whose time is told.
        pretrained: whether those that can start from --weights.
    """

    title: str
    dataset: str
    network: str | None
    size: int
    stored: tuple[int, int] | None = None
    train: int
    val: int
    batch_size: int
    epochs: int
    seconds: float | None = None
    target: float
    pretrained: bool = False


JOBS = {
    "cifar": Job(
        title="ResNet-18 on CIFAR-10, 32 px, from scratch",
        dataset="cifar10",
        network="resnet18",
        size=32,
        train=4096,
        val=1024,
        batch_size=128,
        epochs=3,
        target=0.4,
    ),
    "photos": Job(
        title="MobileNetV2 on JPEGs of 500x400, at 224 px",
        dataset="imagenette",
        network="mobilenetv2_100",
        size=224,
        stored=(400, 500),
        train=384,
        val=96,
        batch_size=32,
        epochs=3,
        target=0.9,
        pretrained=True,
    ),
    "minutes": Job(
        title="CIFAR-10, the best accuracy after so many minutes, each peer with the network that suits it",
        dataset="cifar10",
        network=None,
        size=32,
        train=50_000,
        val=10_000,
        batch_size=128,
        epochs=10_000,
        seconds=300.0,
        target=0.8,
    ),
}
