"""What one process has read from its disk, given to all: machines need not share one."""

from collections.abc import Callable
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from common.errors import UserError

T = TypeVar("T")


def from_one(read: Callable[[], T], rank: int = 0) -> T:
    """What `read` returns on process `rank`, on every process; to be called by all.

    Raises:
        UserError: as `read` does, on every process.
    """
    answer = None
    if PartialState().process_index == rank:
        try:
            answer = read(), None
        except UserError as error:
            answer = None, str(error)
    value, refusal = broadcast_object_list([answer], from_process=rank)[0]
    if refusal is not None:
        raise UserError(refusal)
    return value
