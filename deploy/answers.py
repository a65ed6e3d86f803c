"""infer.py with an exported file: images predicted, or the file judged on a labelled set; no model of ours is built."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from common import console
from common.errors import UserError
from common.files import write_json, write_text
from data.decode import UNREADABLE, complaint, open_image, to_array
from data.decode_all import refuse_bad
from data.folders import find_images
from data.judged import open_judged
from data.readers import RawSplit
from deploy.load import Exported, load
from engine import judge
from options.infer import InferOptions
from pages.run_page import write_report
from tasks.classification import predictions
from tasks.classification.calibration import reliability
from tasks.classification.report import headline, test_metrics
from tasks.inference import folder_beside, tell_unreadable

Key = TypeVar("Key")
OF_OUR_WEIGHTS = ("explain", "tta", "mixed_precision", "batch_size", "exact")


def answer(args: InferOptions) -> int:
    """What infer.py does with such a file; returns its exit code.

    Raises:
        UserError: the file or the images cannot be read, or an option is of no use with it.
    """
    useless = [f"--{name.replace('_', '-')}" for name in OF_OUR_WEIGHTS if getattr(args, name)]
    if useless:
        raise UserError(f"{', '.join(useless)}: of no use with an exported file, which is as it is; leave it out")
    predictions.check_options(args)
    exported = load(Path(args.weights))
    if args.dataset is not None:
        return _judge(args, exported)
    paths, _ = find_images(args.images)
    if not paths:
        raise UserError("an exported file has no test split of its own: name images, or give --dataset")
    unreadable: list[str] = []
    names, probabilities = _predict(exported, ((str(path), path) for path in paths), unreadable)
    found = predictions.rows(names, probabilities, exported.class_names, args.topk, None, args.reject)
    predictions.put_out(found, args.output)
    tell_unreadable(unreadable, len(paths))
    return 1 if unreadable else 0


def _judge(args: InferOptions, exported: Exported) -> int:
    """The report of a test on --dataset, beside the file."""
    found = open_judged(args.dataset, args.data_dir, **judge.how_to_open(args))
    own, raw = np.array(found.raw.labels), found.raw
    there = np.unique(own[own >= 0])
    number = judge.match_classes(found.name, raw.class_names, there, exported.class_names, args.ignore_classes)
    bad = [f"{found.name}[{row}]: it has no label" for row in np.flatnonzero(own < 0)]
    rows = np.flatnonzero((own >= 0) & (number[own] >= 0)).tolist()
    start = time.perf_counter()
    kept, probabilities = _predict(exported, _encoded(raw, rows), bad)
    seconds = time.perf_counter() - start
    if not args.skip_bad_images:
        refuse_bad(bad)
    if not kept:
        raise UserError(f"{args.dataset}: no image of {found.name} is left to judge by")
    names = [name for _, name in kept]
    labels = number[own[[row for row, _ in kept]]]
    metrics = test_metrics(exported.class_names, probabilities, torch.from_numpy(labels))
    if np.isfinite(probabilities).all():
        metrics["calibration"] = reliability(probabilities, labels)
    report = {
        **metrics,
        "seconds": seconds,
        "images_per_second": len(labels) / seconds,
        "data": {"test_images": len(labels)},
    }
    remarks = [f"note: {sentence}" for sentence in found.remarks]
    left_out = int((own >= 0).sum()) - len(rows)
    remarks += judge.about_classes(raw.class_names, there, number, exported.class_names, left_out)
    remarks += [f"note: {len(bad)} images are left out, without a label or unreadable"] if bad else []
    rejected = [] if args.reject is None else [predictions.reject_in_words(labels, probabilities, args.reject)]
    lines = [headline(report), *rejected, *remarks]
    _write(args, found.name, report, predictions.answers(exported.class_names, names, probabilities, labels), lines)
    return 0


def _write(args: InferOptions, name: str, report: dict, table: str, lines: list[str]) -> None:
    folder = folder_beside(args.weights, f"on-{name}")
    try:
        folder.mkdir(exist_ok=True)
        write_json(folder / "test.json", report)
        write_text(folder / "test.csv", table)
        write_report(folder, f"{args.weights} on {name}", lines)
    except OSError as error:
        raise UserError(f"cannot write the report in {folder}: {error.strerror or error}") from error
    console.say("\n".join(lines))
    console.say(f"open     {folder / 'report.html'}, test.csv, test.json")


def _encoded(raw: RawSplit, rows: list[int]) -> Iterator[tuple[tuple[int, str], dict]]:
    """Each image of some rows, with its row and the name that it has in a report."""
    for row in rows:
        encoded = raw.read(range(row, row + 1))[0]
        yield (row, (encoded or {}).get("path") or f"row {row}"), encoded


def _predict(
    exported: Exported, images: Iterable[tuple[Key, object]], unreadable: list[str]
) -> tuple[list[Key], np.ndarray]:
    """The keys of the images that can be read, and their probabilities, float32 (N, K), one picture at a time."""
    keys, found = [], [np.zeros((0, len(exported.class_names)), dtype=np.float32)]
    for key, encoded in images:
        try:
            with open_image(encoded) as image:
                picture = to_array(image, 3, None)
        except UNREADABLE as error:
            name = key if isinstance(key, str) else key[1]
            unreadable.append(f"{name}: {complaint(error)}")
            continue
        keys.append(key)
        found.append(exported.predict(picture[None]))
    return keys, np.concatenate(found)
