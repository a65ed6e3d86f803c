"""The options of train.py that say how a model learns: name, default and meaning. Nothing heavy is imported."""

from dataclasses import dataclass

from data.augment.spec import parse as parse_augment
from data.augment.spec import parse_sizes
from options.schema import option
from options.values import (
    POSITIVE,
    auto_or,
    in_words,
    number,
    number_list,
    parse_class_weights,
    parse_freeze,
    parse_loss,
    path,
)

OPTIMIZERS = (
    "sgd",
    "adamw",
    "adam",
    "nadam",
    "radam",
    "rmsprop",
    "muon",
)
SCHEDULES = ("cosine", "linear", "onecycle", "constant")
SYNC_BN_BELOW = 16  # images of a process at a time: fewer are too few for statistics of their own
HUB = "hub"  # the value of --pretrained without a file
TTA = ("none", "flip", "shift")
# Defaults by optimizer and schedule; found on validation parts of digits and CIFAR.
LR = {"sgd": 0.1, "rmsprop": 1e-3, "muon": 0.24}
HEAD_LR = {"muon": 0.005}
BIAS_LR = {"muon": 0.2}
MOMENTUM = {"muon": 0.6}
WEIGHT_DECAY = {"sgd": 5e-4, "adam": 0.0, "rmsprop": 0.0, "muon": 0.0}  # adam's is no decoupled one
WARMUP = {"onecycle": 0.3}
BALANCE = {"none": 1.0, "sqrt": 0.5, "uniform": 0.0}  # the power of a class's images that its share is proportional to
MONITORS = ("accuracy", "macro_f1", "balanced_accuracy", "loss", "map")
# What is of no use to one of the tasks with classes, by option: None for all values, else these.
NOT_OF_ONE_LABEL = {"loss": ("asymmetric",), "monitor": ("map",)}
NOT_OF_SEVERAL = {
    "loss": ("focal",),
    "monitor": ("balanced_accuracy",),
    **dict.fromkeys(("coarse", "exclude", "class_weights", "balance", "long_tail", "ensemble", "calibrate")),
}


@dataclass(frozen=True, kw_only=True)
class OptimOptions:
    """How it learns."""

    epochs: int = option(20, "passes over the training set", type=POSITIVE, metavar="N", may_change=True)
    batch_size: int | None = option(
        None,
        "images per optimizer step, over all processes (default: 128; less for fewer than 2,560 images, or where "
        "the processes do not divide it)",
        type=POSITIVE,
        metavar="N",
        filled_in=True,
    )
    lr: float | None = option(
        None, "peak learning rate", type=number(float, 0, open_low=True), default_by=("optimizer", LR, 2e-3)
    )
    head_lr: float | None = option(
        None,
        "multiplier of --lr for the last layer",
        type=number(float, 0),
        metavar="FACTOR",
        default_by=("optimizer", HEAD_LR, 1.0),
    )
    bias_lr: float | None = option(
        None,
        "multiplier of --lr for biases and norms",
        type=number(float, 0),
        metavar="FACTOR",
        default_by=("optimizer", BIAS_LR, 1.0),
    )
    optimizer: str = option("adamw", f"optimizer: {', '.join(OPTIMIZERS)}", choices=OPTIMIZERS)
    momentum: float | None = option(
        None,
        "momentum of sgd and muon (Nesterov) and rmsprop",
        type=number(float, 0, 0.9999),
        default_by=("optimizer", MOMENTUM, 0.9),
    )
    weight_decay: float | None = option(
        None,
        "weight decay of all but biases and norms",
        type=number(float, 0),
        metavar="DECAY",
        default_by=("optimizer", WEIGHT_DECAY, 0.05),
    )
    schedule: str = option("cosine", f"learning rate schedule: {', '.join(SCHEDULES)}", choices=SCHEDULES)
    warmup: float | None = option(
        None,
        "share of the run over which the learning rate warms up",
        type=number(float, 0, 1),
        metavar="SHARE",
        default_by=("schedule", WARMUP, 0.05),
    )
    loss: str = option(
        "ce",
        "ce: cross-entropy, with several labels of each by itself; bce: binary cross-entropy of each class, as timm's; "
        "focal[=GAMMA]: focal loss; asymmetric[=GAMMA]: of several labels, as timm's",
        type=in_words(parse_loss),
        metavar="NAME",
        classes_only=True,
    )
    class_weights: str | None = option(
        None,
        "weights of the classes in the loss: auto (inverse of their training images), a beta (of their effective "
        "number, e.g. 0.999) or CLASS=WEIGHT,...",
        type=in_words(parse_class_weights),
        metavar="auto|BETA|LIST",
        classes_only=True,
    )
    balance: str = option(
        "none",
        "show rare classes more often: uniform (all classes equally often) or sqrt (by the square root of their "
        "images)",
        choices=tuple(BALANCE),
        classes_only=True,
    )
    monitor: str | None = option(
        None,
        f"validation metric that best.pth and --patience go by: {', '.join(MONITORS)} (default: accuracy; with several "
        "labels map, the mean average precision)",
        choices=MONITORS,
        classes_only=True,
    )
    calibrate: bool = option(
        False,
        "fit a temperature on the validation part after training, kept in best.pth, so that confidence can be believed",
        may_change=True,
        classes_only=True,
    )
    label_smoothing: float = option(
        0.0, "label smoothing", type=number(float, 0, 0.99), metavar="SHARE", classes_only=True
    )
    clip_grad: float = option(0.0, "maximum gradient norm; 0 disables clipping", type=number(float, 0), metavar="NORM")
    accumulate: int | None = option(
        1,
        "gradient accumulation: micro-batches per optimizer step, which save memory; auto: the fewest that fit, found "
        "before the first step (on CPUs where a limit refuses memory), and more where a later step fails (one process)",
        type=auto_or(POSITIVE),
        metavar="N|auto",
        filled_in=True,
        may_change=True,
    )
    grad_checkpointing: bool = option(
        False,
        "activation checkpointing: compute activations again in the backward pass instead of keeping them: less "
        "memory, more time, the same results",
        may_change=True,
    )
    sync_bn: bool | None = option(
        None,
        "synchronize batch norm: statistics over all processes' images (default: where a process has fewer than "
        f"{SYNC_BN_BELOW} images per micro-batch)",
    )
    ema: float = option(
        0.0,
        "decay of an exponential moving average of the weights, which is evaluated and kept, e.g. 0.999; 0 disables it",
        type=number(float, 0, 0.999999),
        metavar="DECAY",
    )
    patience: int = option(
        0,
        "early stopping: stop after N evaluations without improvement on validation; 0 disables it ",
        type=number(int, 0),
        metavar="N",
        may_change=True,
    )
    seed: int = option(0, "random seed", type=number(int, 0, 2**31 - 1), repeat=True)
    deterministic: bool = option(False, "bitwise reproducible on GPUs too; slower")


@dataclass(frozen=True, kw_only=True)
class FineTuningOptions:
    """Where it starts from."""

    pretrained: str | None = option(
        None,
        "initial weights: a .safetensors or .pth file, a run's best.pth, hf:OWNER/NAME, or without FILE the Hub's for "
        "a timm model; a head for other classes stays new (default: random weights)",
        type=path,
        nargs="?",
        const=HUB,
        metavar="FILE",
        may_change=True,
        classes_only=True,
    )
    match_classes: bool = option(
        False,
        "initialize the head from the rows of --pretrained for classes of the same name, ImageNet's if the file "
        "names none",
    )
    input_size: int | None = option(
        None,
        "side to which images are resized for the model (default: that of --pretrained, else no resizing)",
        type=number(int, 4, 2048),
        metavar="PIXELS",
        filled_in=True,
        classes_only=True,
    )
    interpolation: str | None = option(
        None,
        "interpolation for --input-size and --train-sizes (default: that of --pretrained, else bilinear)",
        choices=("bilinear", "bicubic"),
        filled_in=True,
    )
    mean: list[float] | None = option(
        None,
        "mean of pixels in 0..1 for normalization, one value or one per channel (default: that of --pretrained, else "
        "of the training set)",
        type=number_list(float, 0, 1),
        metavar="LIST",
        filled_in=True,
    )
    std: list[float] | None = option(
        None,
        "standard deviation of pixels in 0..1 for normalization, one value or one per channel (default: that of "
        "--pretrained, else of the training set)",
        type=number_list(float, 0, 1, open_low=True),
        metavar="LIST",
        filled_in=True,
    )
    freeze: str = option(
        "none",
        "head: train the head alone; N: freeze the first N groups of layers; a schedule gives shares of the "
        "epochs, as in head=0.2,none=0.8",
        type=in_words(parse_freeze),
        metavar="none|head|N",
        classes_only=True,
    )
    layer_decay: float = option(
        1.0,
        "layer-wise decay: multiplier of --lr per group of layers, counted from the head (default: 1)",
        type=number(float, 0, 1, open_low=True),
        metavar="FACTOR",
    )


@dataclass(frozen=True, kw_only=True)
class AugmentationOptions:
    """What training images are made of."""

    train_sizes: str | None = option(
        None,
        "progressive resizing: PIXELS=SHARE of the epochs, separated by commas, as in 20=0.5,32=0.5 (default: "
        "full size)",
        type=in_words(parse_sizes),
        metavar="LIST",
        classes_only=True,
    )
    repeats: int = option(
        1,
        "repeated augmentation: show each image N times in a batch, augmented anew; an epoch is as long, and sees an "
        "Nth of the images",
        type=POSITIVE,
        metavar="N",
    )
    tta: str = option(
        "none", "test-time augmentation: average over flipped, or also shifted views", choices=TTA, classes_only=True
    )
    augment: str = option(
        "none",
        "augmentations, separated by commas: flip[=P] altflip vflip[=P] crop[=PIXELS] rrc[=SCALE:RATIO] "
        "rotate[=DEGREES] randaugment[=OPS:MAGNITUDE] trivialaugment augmix[=SEVERITY:WIDTH:DEPTH:ALPHA] "
        "color[=BRIGHTNESS:CONTRAST:SATURATION:HUE] grayscale[=P] blur[=P] jitter[=SHARE] cutout[=PIXELS] erase[=P] "
        "mixup[=ALPHA] cutmix[=ALPHA]; or none",
        type=in_words(parse_augment),
        metavar="LIST",
    )
