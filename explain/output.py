"""The folder that an explanation leaves: pictures, explain.json and TensorBoard's event file."""

from pathlib import Path
from shlex import quote

from accelerate.tracking import TensorBoardTracker

from common import plot_style
from common.console import say
from common.errors import UserError
from common.files import write_json
from engine.output import trackers
from explain.explained import Explained

EVENTS = ".explain"  # how the names of our event files end: a second explanation replaces them and no run's


def make_folder(folder: Path) -> None:
    """Make the folder where it is not there yet, and take the event file of an earlier explanation away.

    Raises:
        UserError: no right to write.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(f"events.out.tfevents.*{EVENTS}"):
            path.unlink()
    except OSError as error:
        raise _no_room(folder, error) from error


def finish(explained: Explained, folder: Path, pictures: list[str], measured: dict[str, dict], more: dict) -> None:
    """Write explain.json, show the pictures and metrics in TensorBoard, and say what to open.

    Args:
        explained: what was explained.
        folder: with the pictures in it.
        pictures: their names, the first of which is to be opened first.
        measured: of each method, from `Explained.measure`.
        more: what else belongs in explain.json.

    Raises:
        UserError: no room or no right to write.
    """
    layer = None if explained.layer is None else explained.layer.name
    try:
        write_json(folder / "explain.json", {"layer": layer, "methods": measured, **more})
        tracker = TensorBoardTracker(folder.name, str(folder.parent), filename_suffix=EVENTS)
        tracker.start()
        # Under names that come after those of a run's curves, beside which TensorBoard shows them.
        faithful = {f"maps/faithfulness/{name}": one["faithfulness"] for name, one in measured.items()}
        trackers.log([tracker], faithful, 0)
        small = {f"maps/{Path(name).stem}": plot_style.read_small(folder / name, most=1200) for name in pictures}
        trackers.log_pictures([tracker], small, 0)
        trackers.finish([tracker])
    except OSError as error:
        raise _no_room(folder, error) from error
    first, *others = pictures
    say(f"open     {folder / first}, {', '.join([*others, 'explain.json'])}")
    say(f"curves   tensorboard --logdir {quote(str(folder))}")


def _no_room(folder: Path, error: OSError) -> UserError:
    return UserError(f"cannot write in {folder}: {error.strerror or error}; give --output a folder with room")
