"""Predict images, or report on the test split, with the weights of a run: python infer.py --help.

    python infer.py --weights runs/<run>/best.pth photo.png holiday/
    python infer.py --weights runs/<run>/best.pth
    python infer.py --weights runs/<run>/best.pth --dataset other_photos/
    python infer.py --weights model.onnx photo.png
    python infer.py --weights runs/<run>/best.pth --explain gradcam,occlusion photo.png

Needs nothing but the weights file and the images. Exit code 1 when some of the images could not be read.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from common import console, openmp
from common.errors import UserError, exit_on_user_error
from engine.runtime.peers import failing_together
from options.infer import EXPORTED, InferOptions, parse_infer

if TYPE_CHECKING:
    from tasks.classification.predictor import Predictor


def infer(args: InferOptions) -> int:
    """Predict what `args` asks for; returns the exit code."""
    console.status("loading PyTorch")
    # Imported only now, as they take seconds: --help and mistyped options are answered at once.
    from data.folders import find_images, left_out_in_words
    from engine import held_out
    from engine.checkpoints import best_weights
    from engine.runtime import hardware
    from tasks import inference, task_class

    if Path(args.weights).suffix in EXPORTED:
        from deploy import answers

        return answers.answer(args)
    content = best_weights.load(Path(args.weights))
    paths, left_out = find_images(args.images)
    if left_out and console.is_first_process():
        console.note(left_out_in_words(left_out))
    if args.explain:
        return explained(args, content, paths)
    task_class(content["options"]).check_infer_options(args)
    precision = args.mixed_precision or hardware.usable_precision(content["mixed_precision"], args.cpu)
    args = replace(args, mixed_precision=precision)
    model, task, *how = prepare(args, content, args.tta)
    if args.dataset is not None:
        from engine import judge

        return judge.report_on_data_set(args, model, task, *how)
    if not paths:
        return held_out.report_on_test_split(args, content, model, task, *how)
    if not args.exact:
        model = inference.fused_where_it_pays(model, task, len(paths), how[0])
    return task.predict_files(args, model, paths, *how)


def load(weights: str, device: str | None = None, batch_size: int = 64) -> "Predictor":
    """A trained classifier to call from Python: `load("runs/<run>")("photo.png").label`.

    Args:
        weights: a run's best.pth, or its folder.
        device: where it computes, "cpu" or "cuda:1", say; None: on an accelerator where there is one.
        batch_size: images that are computed at a time.

    Raises:
        UserError: there are no such weights, or they are of a model that does not name one class an image.
    """
    import torch

    from engine.checkpoints import best_weights
    from options.values import weights_file
    from tasks.classification.predictor import Predictor

    if device is None:
        device = str(torch.accelerator.current_accelerator() or "cpu") if torch.accelerator.is_available() else "cpu"
    path = weights_file(weights)
    model, task = best_weights.restore(best_weights.load(Path(path)), path, device)
    if not task.of_classes or task.several_labels:
        raise UserError(f"{weights}: these weights do not name one class an image; use infer.py")
    return Predictor(model, task, batch_size)


def explained(args: InferOptions, content: dict, paths: list[Path]) -> int:
    """Show what speaks for the classes of `paths`, or of the test split, as `args` asks for; returns the exit code."""
    from explain import explanations

    explanations.check_options(args, content)
    model, task, *how = prepare(replace(args, mixed_precision="no"), content, "none")
    return explanations.explain(args, content, model, task, paths, *how)


def prepare(args: InferOptions, content: dict, tta: str | None) -> tuple:
    """Start the machine and build what `content` describes: (model, task, accelerator, images of a batch)."""
    from engine.checkpoints import best_weights
    from engine.runtime.accelerator import start_accelerator

    accelerator, _ = start_accelerator(args)
    model, task = best_weights.restore(content, args.weights, accelerator.device, tta)
    options = content["options"]
    return model, task, accelerator, args.batch_size or options["batch_size"] // options.get("accumulate", 1)


def main(argv: Sequence[str] | None = None) -> None:
    """Run with the options in `argv` (default: the command line's) and exit."""
    warnings.filterwarnings("ignore", module="PIL")  # an image is read, or named on stderr with the reason
    openmp.wait_briefly()
    try:
        with exit_on_user_error(), failing_together():
            code = infer(parse_infer(argv))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it flushes at exit
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
