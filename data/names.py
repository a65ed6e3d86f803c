"""Very many names in little memory."""

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


class Names(Sequence[str]):
    """Strings, as their text in a row and where each ends: 8 bytes a string beside its text, where Python takes 60.

    Attributes:
        text: uint8, all of them in UTF-8.
        ends: int64 (N,), where each ends.
    """

    def __init__(self, text: np.ndarray, ends: np.ndarray) -> None:
        self.text, self.ends = text, ends

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        """The same strings, so kept."""
        encoded = [name.encode() for name in names]
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), np.cumsum([*map(len, encoded)], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]  # IndexError where there is none
        start = self.ends[number - 1] if number else 0
        return self.text[start : self.ends[number]].tobytes().decode()
