"""Which names of folders and splits say train, validation or test: the rule of `datasets`."""

import re
from collections.abc import Iterable

from common.errors import UserError

KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def splits_in(name: str) -> list[str]:
    """The splits that a name has a keyword of, as a whole word between non-letters: "seg_train" -> ["train"]."""
    words = set(re.split(r"[\W\d_]+", name.lower()))
    return [split for split, keywords in KEYWORDS.items() if words.intersection(keywords)]


def named_splits(names: Iterable[str], where: str) -> dict[str, str]:
    """The name of each split that there is; "train" goes before what only holds the word ("train_masks").

    Raises:
        UserError: two names say one split, or one name says two.
    """
    found: dict[str, str] = {}
    said = {name: splits_in(name) for name in names}
    for split, keywords in KEYWORDS.items():
        those = [name for name in said if split in said[name]]
        those = [name for name in those if name.lower() in keywords] or those
        if len(those) > 1:
            raise UserError(f"{where} has two {split} splits, {those[0]} and {those[1]}: move one of them away")
        if those and len(said[those[0]]) > 1:
            both = " and ".join(said[those[0]])
            raise UserError(f"{where}: the name {those[0]} says both {both}: rename it to the split that it is")
        if those:
            found[split] = those[0]
    return found
