"""What infer.py --explain does: maps of images or of the test split, in pictures, figures and TensorBoard."""

from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from common.errors import UserError
from common.files import exists, is_folder
from common.suggest import did_you_mean, near
from data.class_folders import same_form
from engine.held_out import held_out_data
from explain.explained import Explained
from explain.layers import Layer, find_layer
from explain.methods import check_installed
from explain.of_files import explain_files
from explain.of_test_split import explain_test_split
from options.infer import CAMS, InferOptions
from tasks import evaluate, task_class
from tasks.classification.task import Classification
from tasks.inference import folder_beside


def check_options(args: InferOptions, content: dict) -> None:
    """Raise UserError where --explain cannot be done: no classes, options of no use, a missing package, no folder."""
    if not issubclass(task_class(content["options"]), Classification):
        raise UserError("--explain: these weights make images, not classes; leave it out")
    for name, why in (("tta", "one view is explained"), ("mixed_precision", "maps are computed in fp32")):
        if getattr(args, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} says nothing to --explain, as {why}: leave it out")
    if args.explain_layer is not None and not set(args.explain) & set(CAMS):
        raise UserError(f"--explain-layer is of use to {', '.join(CAMS)} alone: leave it out")
    if args.output is not None and exists(Path(args.output)) and not is_folder(Path(args.output)):
        raise UserError(f"--output {args.output}: is a file; give the name of a folder, which may be new")
    check_installed(args.explain)


def explain(
    args: InferOptions,
    content: dict,
    model: nn.Module,
    task: Classification,
    paths: list[Path],
    accelerator: Accelerator,
    batch_size: int,
) -> int:
    """Explain the images, or where there are none the test split; pictures go into --output, or beside the weights.

    Returns the exit code: 1 when some images could not be read.

    Raises:
        UserError: an unknown class or layer, a model without maps for a method that needs them, no test split on this
            machine, no room or no right to write.
    """
    model = model.float().eval()
    named = class_numbers(args.explain_class, task.class_names)
    explained = Explained(
        "/".join(Path(args.weights).absolute().parts[-2:]), model, task, args.explain, _layer(args, model, task)
    )
    folder = Path(args.output or folder_beside(args.weights, "explain"))
    if paths:
        return explain_files(explained, args, paths, named, folder) if accelerator.is_main_process else 0
    data = held_out_data(args.weights, args.data_dir, content, accelerator)
    if data.targets is not None:
        task.know(torch.from_numpy(data.targets))
    logits, _ = evaluate.predict(model, task, data.test, accelerator, batch_size)
    if accelerator.is_main_process:
        explain_test_split(explained, args, data, task.probabilities(logits).numpy(), named, folder)
    return 0


def _layer(args: InferOptions, model: nn.Module, task: Classification) -> Layer | None:
    if not set(args.explain) & set(CAMS):
        return None
    noise = torch.randint(256, (1, *task.image_shape), generator=torch.Generator().manual_seed(0))
    return find_layer(model, task.inputs(noise.byte().to(task.device)), args.explain_layer)


def class_numbers(names: str | None, class_names: list[str]) -> list[int]:
    """The numbers of the classes in `names`: one, or some separated by commas.

    Raises:
        UserError: there is no such class.
    """
    if names is None:
        return []
    number = {same_form(name): label for label, name in enumerate(class_names)}
    wanted = [names] if same_form(names) in number else [name.strip() for name in names.split(",")]
    for name in wanted:
        if same_form(name) not in number:
            words = did_you_mean(near(name, class_names)) or f"they are {', '.join(class_names[:20])}"
            raise UserError(f"--explain-class {name}: these weights know no such class; {words}")
    return list(dict.fromkeys(number[same_form(name)] for name in wanted))
