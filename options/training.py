"""The options of train.py that say how a model learns: name, default and meaning. Nothing heavy is imported."""

from collections.abc import Callable

from data.augment.spec import parse as parse_augment
from data.augment.spec import parse_sizes
from options.parser import FLAG, POSITIVE, in_words, number, number_list, parse_freeze, path

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
# Where nothing is given; found on validation parts of digits and CIFAR.
DEFAULTS = {"lr": 2e-3, "weight_decay": 0.05, "momentum": 0.9, "head_lr": 1.0, "bias_lr": 1.0}
DEFAULTS_OF = {
    "sgd": {"lr": 0.1, "weight_decay": 5e-4},
    "adam": {"weight_decay": 0.0},  # which is not decoupled here, but a part of the gradient
    "rmsprop": {"lr": 1e-3, "weight_decay": 0.0},
    "muon": {"lr": 0.24, "weight_decay": 0.0, "momentum": 0.6, "head_lr": 0.005, "bias_lr": 0.2},
}


def add_training(add: Callable) -> None:
    add("--epochs", type=POSITIVE, default=20, metavar="N", help="passes over the training set (default: %(default)s)")
    add(
        "--batch-size",
        type=POSITIVE,
        metavar="N",
        help="images per optimizer step, over all processes (default: 128; less for fewer than 2,560 images, or where "
        "the processes do not divide it)",
    )
    add(
        "--lr",
        type=number(float, 0, open_low=True),
        help="peak learning rate (default: sgd 0.1, rmsprop 0.001, muon 0.24, else 0.002)",
    )
    add(
        "--head-lr",
        type=number(float, 0),
        metavar="FACTOR",
        help="multiplier of --lr for the last layer (default: 1; muon 0.005)",
    )
    add(
        "--bias-lr",
        type=number(float, 0),
        metavar="FACTOR",
        help="multiplier of --lr for biases and norms (default: 1; muon 0.2)",
    )
    add(
        "--optimizer",
        choices=OPTIMIZERS,
        default="adamw",
        help=f"optimizer: {', '.join(OPTIMIZERS)} (default: %(default)s)",
    )
    add(
        "--momentum",
        type=number(float, 0, 0.9999),
        help="momentum of sgd and muon (Nesterov) and rmsprop (default: 0.9; muon 0.6)",
    )
    add(
        "--weight-decay",
        type=number(float, 0),
        metavar="DECAY",
        help="weight decay of all but biases and norms (default: sgd 0.0005; adam, rmsprop and muon 0; else 0.05)",
    )
    add(
        "--schedule",
        choices=SCHEDULES,
        default="cosine",
        help=f"learning rate schedule: {', '.join(SCHEDULES)} (default: %(default)s)",
    )
    add(
        "--warmup",
        type=number(float, 0, 1),
        metavar="SHARE",
        help="share of the run over which the learning rate warms up (default: 0.05; onecycle 0.3)",
    )
    add(
        "--label-smoothing",
        type=number(float, 0, 0.99),
        default=0.0,
        metavar="SHARE",
        help="label smoothing (default: %(default)s)",
    )
    add(
        "--clip-grad",
        type=number(float, 0),
        default=0.0,
        metavar="NORM",
        help="maximum gradient norm; 0 disables clipping (default: %(default)s)",
    )
    add(
        "--accumulate",
        type=POSITIVE,
        default=1,
        metavar="N",
        help="gradient accumulation: micro-batches per optimizer step, which save memory (default: %(default)s)",
    )
    add(
        "--sync-bn",
        action=FLAG,
        help="synchronize batch norm: statistics over all processes' images (default: where a process has fewer than "
        f"{SYNC_BN_BELOW} images per micro-batch)",
    )
    add(
        "--ema",
        type=number(float, 0, 0.999999),
        default=0.0,
        metavar="DECAY",
        help="decay of an exponential moving average of the weights, which is evaluated and kept, e.g. 0.999; 0 "
        "disables it (default: %(default)s)",
    )
    add(
        "--patience",
        type=number(int, 0),
        default=0,
        metavar="N",
        help="early stopping: stop after N evaluations without improvement on validation; 0 disables it "
        "(default: %(default)s)",
    )
    add("--seed", type=number(int, 0, 2**31 - 1), default=0, help="random seed (default: %(default)s)")
    add("--deterministic", action=FLAG, default=False, help="bitwise reproducible on GPUs too; slower (default: no)")


def add_fine_tuning(add: Callable) -> None:
    add(
        "--pretrained",
        type=path,
        nargs="?",
        const=HUB,
        metavar="FILE",
        help="initial weights: a .safetensors or .pth file, a run's best.pth, or without FILE the Hub's for a timm "
        "model; a head for other classes stays new (default: random weights)",
    )
    add(
        "--match-classes",
        action=FLAG,
        default=False,
        help="initialize the head from the rows of --pretrained for classes of the same name, ImageNet's if the file "
        "names none (default: no)",
    )
    add(
        "--input-size",
        type=number(int, 4, 2048),
        metavar="PIXELS",
        help="side to which images are resized for the model (default: that of --pretrained, else no resizing)",
    )
    add(
        "--interpolation",
        choices=("bilinear", "bicubic"),
        help="interpolation for --input-size and --train-sizes (default: that of --pretrained, else bilinear)",
    )
    for name in ("--mean", "--std"):
        add(
            name,
            type=number_list(float, 0, 1, open_low=name == "--std"),
            metavar="LIST",
            help=f"{name.strip('-')} of pixels in 0..1 for normalization, one value or one per channel (default: that "
            "of --pretrained, else of the training set)",
        )
    add(
        "--freeze",
        type=in_words(parse_freeze),
        default="none",
        metavar="none|head|N",
        help="head: train the head alone; N: freeze the first N groups of layers; a schedule gives shares of the "
        "epochs, as in head=0.2,none=0.8 (default: %(default)s)",
    )
    add(
        "--layer-decay",
        type=number(float, 0, 1, open_low=True),
        default=1.0,
        metavar="FACTOR",
        help="layer-wise decay: multiplier of --lr per group of layers, counted from the head (default: 1)",
    )


def add_augmentation(add: Callable) -> None:
    add(
        "--train-sizes",
        type=in_words(parse_sizes),
        metavar="LIST",
        help="progressive resizing: PIXELS=SHARE of the epochs, separated by commas, as in 20=0.5,32=0.5 (default: "
        "full size)",
    )
    add(
        "--tta",
        choices=TTA,
        default="none",
        help="test-time augmentation: average over flipped, or also shifted views (default: %(default)s)",
    )
    add(
        "--augment",
        type=in_words(parse_augment),
        default="none",
        metavar="LIST",
        help="augmentations, separated by commas: flip[=P] altflip crop[=PIXELS] jitter[=SHARE] cutout[=PIXELS] "
        "randaugment[=OPS:MAGNITUDE] trivialaugment mixup[=ALPHA] cutmix[=ALPHA]; or none (default: %(default)s)",
    )
