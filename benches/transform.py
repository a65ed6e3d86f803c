"""Bench `transform`: what torchvision makes of images, one by one and by whole batches, and a model that learnt it.

Every variant is given uint8 images that lie in memory and leaves uint8 images there: PIL images, or tensors on the CPU.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from benches import learn
from benches.budget import Budget
from benches.forward import WORDS
from benches.learn import Learnt, in_words
from benches.report import Row, Section
from benches.step import DTYPES, autocast
from benches.timing import calls_for, interleave, warm_up
from benches.variants import EAGER, MODES, check_pays, check_time, why_not
from common.console import percent
from common.errors import UserError
from data.transforms import with_torchvision
from data.transforms.spec import parse as parse_transform
from engine.checkpoints import best_weights
from engine.held_out import check_same_test_images, held_out_data
from options.bench import BenchOptions
from tasks import task_class
from tasks.image_to_image.metrics import WITHIN
from tasks.image_to_image.task import Maker, Transformation

ROUND_SECONDS = 0.1  # of so many lines
RIGHT = (0.9999, 0.99)  # shares within 0.05 and 0.01 from which on a model counts as one that makes the right pixels

Made = Callable[[], Sequence]


class Subject(NamedTuple):
    """What is timed: uint8 images (N, H, W, C) on the CPU, the transforms, models that learnt them, all in a title."""

    images: Tensor
    transforms: list[tuple[str, float | None]]
    learnt: list[Learnt]
    title: str


class Variant(NamedTuple):
    """A line: its name, images of a batch, precision ("no", "bf16"), and what makes the call from all images."""

    name: str
    batch_size: int
    precision: str
    prepare: Callable[[Tensor], Made]


def refuse_early(args: BenchOptions) -> None:
    """Raise UserError for weights that make no images, or not all by one transform, before anything is computed."""
    if not args.weights:
        return
    found = {}
    for path in args.weights:
        options = best_weights.load(Path(path))["options"]
        if not issubclass(task_class(options), Transformation):
            raise UserError(f"--weights {path}: they name classes; give best.pth of a run of --task transform")
        if not options["transform"]:
            raise UserError(f"--weights {path}: learnt from pairs of yours; give a run's with --transform")
        found.setdefault((options["dataset"], options["transform"], options.get("image_size")), path)
    if len(found) > 1:
        one, other = list(found.values())[:2]
        raise UserError(f"--weights: {one} and {other} are of other data or transforms; give them one by one")


def measure(args: BenchOptions, accelerator: Accelerator, budget: Budget) -> Section:
    """Time everything on the same images, with how many of its pixels are right beside it.

    Args:
        args: the options of bench.py.
        accelerator: of this process.
        budget: torchvision's three ways are measured even where it is spent, as the others are compared with them.
    """
    torch._dynamo.reset()
    device, asked = accelerator.device, accelerator.mixed_precision
    subject = _from_weights(args, accelerator) if args.weights else _made_up(args, device, budget)
    planes = subject.images.permute(0, 3, 1, 2)
    targets = with_torchvision.apply(subject.transforms, planes).permute(0, 2, 3, 1)
    sizes = list(dict.fromkeys(min(size, len(planes)) for size in (*args.batch_sizes, len(planes))))
    rows: dict[str, Row] = {}
    calls: dict[str, tuple[Made, int]] = {}
    for number, variant in enumerate(_variants(subject, sizes, device)):
        # Whole batches alone: what is compiled or exported for one size takes no other.
        count = len(planes) // variant.batch_size * variant.batch_size
        try:
            check_pays(variant.precision, asked, device)
            if number >= 3:
                check_time(budget)
            call = variant.prepare(subject.images[:count])
            calls[variant.name] = call, calls_for(warm_up(call, device, budget), ROUND_SECONDS)
            rows[variant.name] = Row(variant.name, count, accuracy=_accuracy(call(), targets[:count]))
        except Exception as error:  # a compiler, a model or a device may refuse in any way: its line says why
            rows[variant.name] = Row(variant.name, count, reason=why_not(error))
    for name, timing in interleave(calls, args.rounds, device, budget).items():
        rows[name].timing = timing
    return _section(subject, list(rows.values()))


def _from_weights(args: BenchOptions, accelerator: Accelerator) -> Subject:
    """The test images of the run that the first weights are from, and all the weights' models."""
    learnt = []
    contents = [best_weights.load(Path(path)) for path in args.weights]
    for path, content in zip(args.weights, contents, strict=True):
        model, task = best_weights.restore(content, path, accelerator.device)
        name = in_words(content["model"], content["model_args"])
        if any(name == other.name for other in learnt):
            name = f"{name} ({Path(path).parent.name})"
        learnt.append(Learnt(name, model.eval(), task))
    data = held_out_data(args.weights[0], args.data_dir, contents[0], accelerator)
    for path, content in zip(args.weights[1:], contents[1:], strict=True):
        check_same_test_images(path, content, data)
    images = torch.from_numpy(data.test.arrays.images[data.test.ids])
    spec = contents[0]["options"]["transform"]
    title = f"{spec}, {len(images)} test images of {data.name}; weights: {', '.join(args.weights)}"
    return Subject(images, parse_transform(spec), learnt, title)


def _made_up(args: BenchOptions, device: torch.device, budget: Budget) -> Subject:
    """Made-up images and models that learn from others of their kind for some seconds each."""
    spec = args.transform or f"resize={args.image_size * 7 // 8},grayscale,vflip,hflip"
    images, learnt = learn.learn(args, spec, device, budget)
    title = f"{spec}, {len(images)} made-up images; models that learnt it from others"
    if len(learnt) < len(learn.MODELS):
        title += f" ({len(learnt)} of {len(learn.MODELS)} models, as a larger --budget has time for more)"
    return Subject(images, parse_transform(spec), learnt, title)


def _variants(subject: Subject, sizes: list[int], device: torch.device) -> list[Variant]:
    """Torchvision's lines and then the models': the first model in every way, of the others the usual one."""
    spec = subject.transforms
    found = [
        Variant("torchvision one by one, PIL", 1, "no", partial(_pil_one_by_one, spec)),
        Variant("torchvision one by one, tensors", 1, "no", partial(_tensors_one_by_one, spec)),
    ]
    for size in sizes:
        found.append(Variant(f"torchvision by {size}", size, "no", partial(_whole_batches, spec, size, device)))
    first, *others = subject.learnt
    ways = [(first, EAGER, True, size) for size in sizes]
    ways += [(first, mode, True, sizes[0]) for mode in ("torch.compile", "torch.export")]
    ways += [(first, EAGER, False, sizes[0])] * hasattr(first.model, "for_pixels")
    ways += [(other, EAGER, True, sizes[0]) for other in others]
    for learnt, mode, folded, size in ways:
        fold = (", folded" if folded else ", as trained") if hasattr(learnt.model, "for_pixels") else ""
        for precision in ("no", "bf16"):
            name = f"{learnt.name}{fold}, {mode}, {WORDS[precision]}, by {size}"
            prepare = partial(_by_model, learnt, mode, precision, folded, size, device)
            found.append(Variant(name, size, precision, prepare))
    return found


def _pil_one_by_one(spec: list, images: Tensor) -> Made:
    opened = [Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image) for image in images.numpy()]
    return lambda: [with_torchvision.apply(spec, image) for image in opened]


def _tensors_one_by_one(spec: list, images: Tensor) -> Made:
    planes = list(images.permute(0, 3, 1, 2))
    return lambda: [with_torchvision.apply(spec, image).permute(1, 2, 0) for image in planes]


def _whole_batches(spec: list, size: int, device: torch.device, images: Tensor) -> Made:
    def make(batch: Tensor) -> Tensor:
        return with_torchvision.apply(spec, batch.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    return lambda: [make(batch.to(device)).cpu() for batch in images.split(size)]


def _by_model(
    learnt: Learnt, mode: str, precision: str, folded: bool, size: int, device: torch.device, images: Tensor
) -> Made:
    """`folded`: as `infer.py` makes images; else as the model is called in training and in the test."""
    maker = learnt.task.maker(learnt.model) if folded else Maker(learnt.task, learnt.model)
    if not isinstance(maker, Maker):  # which is given float32 and leaves precision to autocast
        maker = maker.to(DTYPES.get(precision, torch.float32))
    with torch.no_grad(), autocast(device, precision):
        make = MODES[mode](maker.eval(), images[:size].to(device))

    def by_batches() -> list[Tensor]:
        with torch.no_grad(), autocast(device, precision):
            return [make(batch.to(device)).cpu() for batch in images.split(size)]

    return by_batches


def _accuracy(made: Sequence, targets: Tensor) -> tuple[float, float]:
    """Shares of pixels within 0.05 and 0.01 of torchvision's for the whole batch, uint8 (N, H, W, C) as 0..1."""
    if isinstance(made[0], Tensor):
        pixels = torch.stack(list(made)) if made[0].ndim == 3 else torch.cat(list(made))
    else:
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in made]))
    error = (pixels.reshape(targets.shape).int() - targets.int()).abs()
    return tuple((error < 255 * within).double().mean().item() for within in WITHIN)


def _section(subject: Subject, rows: list[Row]) -> Section:
    """The faster of the two ways one by one comes first: the others are compared with it."""
    rows[:2] = sorted(rows[:2], key=lambda row: row.timing.median)
    section = Section("transform", f"transform: {subject.title}", rows)
    timed = [row for row in rows[2:] if row.timing is not None]
    whole = max((row for row in timed if row.variant.startswith("torchvision")), key=section.share)
    section.facts = {"seconds_over_one_by_one": {whole.variant: 1 / section.share(whole)}}
    section.notes = ["", f"{whole.variant}: {1 / section.share(whole):.3f} of the time of {rows[0].variant}"]
    wanted = f"{percent(RIGHT[0])} of pixels within {WITHIN[0]} and {percent(RIGHT[1], 0)} within {WITHIN[1]}"
    models = [row for row in timed if not row.variant.startswith("torchvision")]
    for precision in ("fp32", "bf16"):
        right = [row for row in models if precision in row.variant and _is_right(row)]
        if not right:
            section.notes.append(f"no model in {precision} has {wanted}")
            continue
        best = max(right, key=section.share)
        over_one, over_whole = 1 / section.share(best), 1 / section.share(best, whole)
        section.facts["seconds_over_one_by_one"][best.variant] = over_one
        section.facts.setdefault("seconds_over_whole_batches", {})[best.variant] = over_whole
        section.notes.append(f"{best.variant}: {over_one:.3f} of it, and {over_whole:.3f} of that of {whole.variant}")
    section.notes.append(f"(the fastest in each precision of the models with at least {wanted})")
    return section


def _is_right(row: Row) -> bool:
    return all(share >= least for share, least in zip(row.accuracy, RIGHT, strict=True))
