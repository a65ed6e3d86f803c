"""Options of train.py that say what is trained, validated and tested on. Nothing heavy is imported."""

from dataclasses import dataclass

from data.geometry import FITS
from options.schema import Role, option
from options.values import POSITIVE, number, path


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What is trained, validated and tested on."""

    dataset: str = option(
        "digits", "name, Hub id (owner/name) or folder", may_change=True, of_test=True, per_machine=True
    )
    data_dir: str | None = option(
        None,
        "folder searched for the data set by name before the Hub (default: $SAMELOOP_DATA)",
        metavar="DIR",
        environment="SAMELOOP_DATA",
        role=Role.OUTPUT,
        of_test=True,
        per_machine=True,
    )
    hub_config: str | None = option(
        None,
        "which data set, where a Hub id or a folder of parquet files holds several (default: the only one)",
        metavar="NAME",
        of_test=True,
    )
    train_split: str | None = option(
        None, "split of a table to train on (default: the one whose name says so)", metavar="NAME", of_test=True
    )
    val_split: str | None = option(None, "split to validate on (default: likewise)", metavar="NAME", of_test=True)
    test_split: str | None = option(None, "split to test on (default: likewise)", metavar="NAME", of_test=True)
    labels: str | None = option(
        None,
        "table of the labels of a folder of images: .csv, .tsv, .jsonl or .parquet, a row per image (default: "
        "metadata.csv in the folder, else its folders are the classes)",
        type=path,
        metavar="FILE",
        may_change=True,
        of_test=True,
        per_machine=True,
        classes_only=True,
    )
    split_column: str | None = option(
        None, "column of --labels that says train, validation or test", metavar="NAME", of_test=True, classes_only=True
    )
    group_column: str | None = option(
        None,
        "column of --labels of what belongs together (a patient, a video): never in two of train, validation and test",
        metavar="NAME",
        of_test=True,
        classes_only=True,
    )
    image_column: str | None = option(
        None, "image column of a table (default: image, or the only one)", metavar="NAME", of_test=True
    )
    label_column: str | None = option(
        None,
        "label column of a table (default: label, or the only ClassLabel); with several labels a column of lists, of "
        "text such as cat|dog, or NAME,NAME,...: columns of 0 and 1",
        metavar="NAME",
        of_test=True,
    )
    coarse: bool = option(False, "use the coarse set of classes, where there are two", of_test=True, classes_only=True)
    fit: str | None = option(
        None,
        "how photos of another shape become an input: crop the middle, pad (letterbox, with the mean of train) or "
        "stretch (default: as the weights of --pretrained were trained, else crop)",
        choices=FITS,
        of_test=True,
        filled_in=True,
        earlier="crop",
    )
    crop_pct: float | None = option(
        None,
        "share of the height and width of that middle to keep, for --fit crop (default: as the weights of --pretrained "
        "were tested, else 1)",
        type=number(float, 0, 1, open_low=True),
        metavar="SHARE",
        of_test=True,
        filled_in=True,
        earlier=1.0,
    )
    val_fraction: float | None = option(
        None,
        "share of train held out for validation, stratified; 0 for none (default: the data set's own split if it "
        "has a test split too, else 0.1)",
        type=number(float, 0, 0.9),
        metavar="SHARE",
    )
    exclude: str | None = option(
        None,
        "list of images not to train on, as clean.py writes it: a .csv file with the columns file and flagged",
        type=path,
        metavar="FILE",
        may_change=True,
        per_machine=True,
        classes_only=True,
    )
    long_tail: float | None = option(
        None,
        "thin train out, class after class, down to RATIO times fewer images: for experiments with imbalance",
        type=number(float, 1),
        metavar="RATIO",
        classes_only=True,
    )
    limit_train: int | None = option(None, "number of training images (default: all)", type=POSITIVE, metavar="N")
    limit_val: int | None = option(None, "number of validation images (default: all)", type=POSITIVE, metavar="N")
    limit_test: int | None = option(
        None, "number of test images (default: all)", type=POSITIVE, metavar="N", of_test=True
    )
    smoke_test: bool = option(
        False, "try a whole run, report and pictures in seconds, on 16 images of each part", of_test=True
    )
    image_size: int | None = option(
        None,
        "side of the square to which every image is resized and cropped (default: as they are; photos of many "
        "sizes to the model's own, 64 for ours)",
        type=number(int, 4, 2048),
        metavar="PIXELS",
        of_test=True,
        filled_in=True,
    )
    skip_bad_images: bool = option(
        False,
        "skip and count images that cannot be decoded or have no label (default: refuse them)",
        compared=False,
        of_test=True,
    )
    stream: bool = option(
        False,
        "read train while training, from the Hub, parquet files or a URL of such or of tar shards, for what no disk "
        "holds; validation and test are the data set's own splits",
        of_test=True,
        classes_only=True,
    )
    shuffle_buffer: int = option(
        1000,
        "images that a process shuffles at once, encoded in memory, with --stream",
        type=POSITIVE,
        metavar="N",
        classes_only=True,
    )
    train_num_samples: int | None = option(
        None,
        "training images of an epoch, with --stream (default: as the data set's card or its parquet files say)",
        type=POSITIVE,
        metavar="N",
        classes_only=True,
    )
    decode: str | None = option(
        None,
        "decode images once and keep them (cache) or at every step (live), where --augment rrc cuts from the whole "
        "photo (default: auto, cache while it fits in half of the free memory and disk)",
        choices=("cache", "live", "auto"),
        filled_in=True,
        earlier="cache",
    )
    workers: int | None = option(
        None,
        "data loading processes; 0 loads in the training process (default: as many as cores for --decode live, else 0)",
        type=number(int, 0, 64),
        metavar="N",
        role=Role.OUTPUT,
        per_machine=True,
    )
