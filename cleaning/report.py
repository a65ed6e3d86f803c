"""What clean.py says and writes."""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from shlex import quote

import numpy as np

from cleaning import out_of_fold
from cleaning.confident_learning import Judgement, judge
from cleaning.faults import Faults, Pool, find_faults
from cleaning.out_of_fold import OutOfFold
from cleaning.pictures import plot_suspects
from common import console
from common.console import percent, say
from common.errors import UserError
from common.files import is_folder, write_atomically
from data.exclusion import FLAGGED, NAME, SAYS_YES
from options.clean import CleanOptions

SUSPECTS = (NAME, "label", "suggested", "label_probability", "suggested_probability", "margin", FLAGGED)
DUPLICATES = ("kind", "group", NAME, "part", "label", "labels_differ")
NAMED_AT_ONCE = 5
WEAK = 0.6  # share of the labels that runs have to agree with


def clean(args: CleanOptions) -> None:
    """Name the images of a data set that are probably faulty, on the screen and in files.

    Raises:
        UserError: the folder holds no whole cross-validation, its images have changed, or nothing can be written.
    """
    group = Path(args.runs)
    folders = out_of_fold.find_members(group)
    output = Path(args.output_dir or group)
    if not is_folder(output) or not os.access(output, os.W_OK):
        raise UserError(f"cannot write in {output}: give another --output-dir")
    found, accelerator = out_of_fold.predict(args, folders)
    if not accelerator.is_main_process:
        return
    labels = found.train.arrays.labels[found.train.ids]
    judgement = judge(found.probabilities, labels)
    suspects = np.flatnonzero(judgement.margin < 0)
    suspects = suspects[np.argsort(judgement.self_confidence[suspects], kind="stable")]
    _write(output / "suspects.csv", SUSPECTS, _suspect_rows(found, labels, judgement, suspects))
    flagged = suspects[judgement.flagged[suspects]]
    plot_suspects(found, labels, judgement, flagged, output / "suspects.png")
    console.status("looking for duplicates")
    pool = Pool({"train": found.train, "test": found.test})
    faults = find_faults(pool, args.radius)
    _write(output / "duplicates.csv", DUPLICATES, _duplicate_rows(pool, faults, found.class_names))
    say("\n".join([about_labels(len(found.train), suspects, flagged), *about_faults(pool, faults, found.class_names)]))
    say(f"open     {output / 'suspects.png'}, suspects.csv, duplicates.csv")
    if len(flagged):
        say(f"exclude  python train.py ... --exclude {quote(str(output / 'suspects.csv'))}")


def about_labels(total: int, suspects: np.ndarray, flagged: np.ndarray) -> str:
    """A line for the screen, and another where the runs know too little to be believed."""
    agreed = 1 - len(suspects) / total
    line = (
        f"labels   {len(flagged):,} of {total:,} probably wrong ({percent(len(flagged) / total)}), among "
        f"{len(suspects):,} that the runs predict otherwise"
    )
    weak = f"warning: the runs are right on {percent(agreed)} only: most of what they call wrong is their own mistake; "
    return (
        line if agreed >= WEAK else f"{line}\n{weak}train longer, or from --pretrained weights, before you believe it"
    )


def _suspect_rows(
    found: OutOfFold, labels: np.ndarray, judgement: Judgement, suspects: np.ndarray
) -> Iterable[Sequence[object]]:
    names, classes = found.train.names(), found.class_names
    for number in suspects:
        label, suggested = labels[number], judgement.suggested[number]
        likely = [f"{found.probabilities[number, k]:.6f}" for k in (label, suggested)]
        flag = SAYS_YES if judgement.flagged[number] else "no"
        yield names[number], classes[label], classes[suggested], *likely, f"{judgement.margin[number]:.6f}", flag


def _duplicate_rows(pool: Pool, faults: Faults, class_names: list[str]) -> Iterable[Sequence[object]]:
    def row(number: int, *rest: object) -> list[object]:
        return [pool.names[number], pool.part_names[pool.part_of[number]], class_names[pool.labels[number]], *rest]

    number = 0
    for kind, found in (("exact", faults.exact), ("near", faults.near)):
        for group in sorted(found, key=lambda group: not _differ(pool, group)):  # those that do not agree first
            number += 1
            differ = "yes" if _differ(pool, group) else "no"
            for member in group:
                yield kind, number, *row(member, differ)
    for kind, found in (("blank", faults.blank), ("tiny", faults.tiny)):
        for member in found:
            yield kind, "", *row(member, "")


def _differ(pool: Pool, group: np.ndarray) -> bool:
    return len(np.unique(pool.labels[group])) > 1


def about_faults(pool: Pool, faults: Faults, class_names: list[str]) -> list[str]:
    """Lines for the screen; groups whose labels differ are named."""
    lines = []
    for kind, found in (("exact", faults.exact), ("near", faults.near)):
        images = sum(map(len, found))
        across = sum(len(np.unique(pool.part_of[group])) > 1 for group in found)
        odd = [group for group in found if _differ(pool, group)]
        lines.append(
            f"{kind:<8} {_counted(images, 'duplicate')} in {_counted(len(found), 'group')}: {across:,} across train "
            f"and test, {len(odd):,} with different labels"
        )
        for group in odd[:NAMED_AT_ONCE]:
            told = [f"{pool.names[number]} ({class_names[pool.labels[number]]})" for number in group[:NAMED_AT_ONCE]]
            lines.append(f"         {' = '.join(told)}{' ...' if len(group) > NAMED_AT_ONCE else ''}")
        if len(odd) > NAMED_AT_ONCE:
            lines.append(f"         and {len(odd) - NAMED_AT_ONCE:,} more groups: the first in duplicates.csv")
    lines.append(f"blank    {_counted(len(faults.blank), 'image')} of one colour; {len(faults.tiny):,} tiny")
    return lines


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    def write(staged: Path) -> None:
        with staged.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows(rows)

    write_atomically(path, write)
