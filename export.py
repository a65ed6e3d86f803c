"""Write a trained classifier as a file that other programs run, and check it: python export.py --help.

    python export.py --weights runs/<run> --format onnx,pt2 --int8
    python export.py --weights runs/<run>/best.pth --check holiday/
    python export.py --weights runs/<run> --push OWNER/NAME

Exit code 1, with nothing written, when a file's probabilities differ from the model's own by more than --tolerance.
"""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common import console
from common.errors import UserError, exit_on_user_error
from options.export import ExportOptions, parse_export
from options.infer import InferOptions

if TYPE_CHECKING:
    from deploy.check import Result
    from deploy.job import Job


def export(args: ExportOptions) -> int:
    """Write and check what `args` asks for; returns the exit code."""
    console.status("loading PyTorch")
    # Imported only now, as they take seconds: --help and mistyped options are answered at once.
    from deploy import check, publish
    from deploy.staging import put_in_place, staging
    from tasks.inference import folder_beside, tell_unreadable

    if args.push or args.card_only:
        publish.publish(args)
        return 0
    job = begin(args)
    folder = Path(args.output) if args.output else folder_beside(args.weights, "export")
    with staging(folder) as staged:
        console.status("writing")
        results = job.run(staged)
        console.say(check.as_text(results))
        tell_unreadable(job.unreadable, len(job.paths))
        written = [] if refused(args, results) else put_in_place(staged, folder)
    if written:
        console.say(f"written  {', '.join(str(path) for path in written)}")
    return 0 if written else 1


def begin(args: ExportOptions) -> "Job":
    """Read the weights and find what to check by, before anything is written."""
    from data.folders import find_images
    from deploy import formats
    from deploy.classifier import load_content
    from deploy.job import Job
    from deploy.pictures import held_out_splits
    from engine.checkpoints import best_weights
    from engine.runtime.accelerator import start_accelerator

    formats.check_installed(args.format)
    content = load_content(args.weights)
    paths, _ = find_images(args.check)
    accelerator, _ = start_accelerator(InferOptions(weights=args.weights, cpu=True, mixed_precision="no"))
    if accelerator.num_processes > 1:
        raise UserError("export.py is one process: start it with 'python export.py'")
    model, task = best_weights.restore(content, args.weights)
    data = held_out_splits(args, content, accelerator) if args.int8 or not paths else None
    return Job(args, content, model, task, paths, data, args.batch_size or content["options"]["batch_size"])


def refused(args: ExportOptions, results: list["Result"]) -> bool:
    """Whether a file differs by more than --tolerance, which is then said."""
    beyond = [result for result in results if result.exceeds(args.tolerance)]
    if beyond:
        worst = max(result.prepared.largest for result in beyond)
        names = ", ".join(result.name for result in beyond)
        console.note(
            f"error: {names}: a probability differs by {worst:.1e} from the model's own, more than --tolerance "
            f"{args.tolerance:g}: nothing was written"
        )
    return bool(beyond)


def main(argv: Sequence[str] | None = None) -> None:
    """Run with the options in `argv` (default: the command line's) and exit."""
    warnings.filterwarnings("ignore", module="PIL")  # an image is read, or named on stderr with the reason
    with exit_on_user_error():
        code = export(parse_export(argv))
    sys.exit(code)


if __name__ == "__main__":
    main()
