"""Weights to start from, and how images are prepared for them: the Hub's, a file's, or a best.pth's."""

import sys
from dataclasses import replace

import torch
from accelerate import PartialState
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

import models
from common import console
from common.errors import ImpossibleOptions
from common.hub import local_file
from data.class_folders import same_names
from engine.checkpoints import best_weights, class_matching
from engine.checkpoints.store import differences, with_tied
from models import param_groups
from options.groups import TrainOptions
from options.training import HUB

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "weights")  # under which files keep their weights
PREFIXES = ("_orig_mod.", "module.")  # what torch.compile and DistributedDataParallel put before names
CROP_MODES = {"center": "crop", "squash": "stretch", "border": "pad"}  # timm's words for --fit
INTERPOLATIONS = ("bilinear", "bicubic")


def completed(args: TrainOptions) -> TrainOptions:
    """The options with mean, std, input size and interpolation, where none is given, as the weights know them.

    `fit` and `crop_pct` are settled with the images, which they may not concern.

    Raises:
        ImpossibleOptions: --pretrained names no weights, or weights that cannot be had.
    """
    known = {name: value for name, value in preparation(args).items() if name not in ("fit", "crop_pct")}
    return replace(args, **{name: value for name, value in known.items() if getattr(args, name) is None})


def preparation(args: TrainOptions) -> dict:
    """Mean, std, input size, interpolation, fit and crop_pct, as far as the weights of --pretrained know them.

    Raises:
        UserError: as `completed`.
    """
    if args.pretrained is None:
        return {}
    content = {} if args.pretrained == HUB else _read(args.pretrained)
    if "options" in content:  # our own best.pth
        options, (height, width, _) = content["options"], content["shape"]
        return {name: content[name] for name in ("mean", "std")} | {
            # Images that are not square are taken as they are.
            "input_size": options.get("input_size") or (height if height == width else None),
            "interpolation": options.get("interpolation"),
            "fit": options.get("fit"),
            "crop_pct": options.get("crop_pct"),
        }
    if not args.model.startswith(models.TIMM):
        return {}
    import timm

    config = timm.get_pretrained_cfg(args.model.removeprefix(models.TIMM))
    if config is None:
        return {}
    return {
        "mean": list(config.mean),
        "std": list(config.std),
        "input_size": config.input_size[-1],
        "interpolation": config.interpolation if config.interpolation in INTERPOLATIONS else "bicubic",
        "fit": CROP_MODES.get(config.crop_mode),
        "crop_pct": config.crop_pct,
    }


def load(model: nn.Module, args: TrainOptions, classes: list[str]) -> None:
    """Load the weights that --pretrained names into a new model, all but those of a head of other classes; say which.

    With --match-classes the head is new too, but for `classes` (in the order of their labels) that the weights know.

    Raises:
        ImpossibleOptions: they cannot be had, are of another model, or share no class to match.
    """
    where = f"the Hub's weights of {args.model}" if args.pretrained == HUB else f"--pretrained {args.pretrained}"
    content = _from_hub(args) if args.pretrained == HUB else _read(args.pretrained)
    found = _fitted(model, _plain(content))
    own = model.state_dict()
    found = with_tied(found, own)
    heads = param_groups.head_names(model)
    same = same_names(content.get("class_names", classes), classes) and not args.match_classes
    fits = {name for name in found if same and name in own and found[name].shape == own[name].shape}
    left = [name for name in own if name in heads - fits]
    fitting = {name: value for name, value in found.items() if name not in left}
    needed = {
        name: value
        for name, value in own.items()
        if name in fitting or (name not in left and "num_batches_tracked" not in name)
    }
    _check_fit(needed, fitting, content, where, args.model)
    whole = all(name in found and found[name].shape[1:] == own[name].shape[1:] for name in left)
    rows = class_matching.known_rows(classes, left, found, content) if left and whole else {}
    if args.match_classes and not rows:
        some = ", ".join(classes[:5]) + ", ..." * (len(classes) > 5)
        raise ImpossibleOptions(
            f"--match-classes: {where} has no head that fits, or names none of the classes ({some}): leave it out"
        )
    model.load_state_dict(fitting, strict=False)
    for name in left:  # a head of zeros does not upset the layers before it (Dosovitskiy et al. 2021, arXiv:2010.11929)
        nn.init.zeros_(model.get_parameter(name))
    not_loaded = f"not loaded, so new: {', '.join(left)}" if left else "all of them"
    if args.match_classes:
        class_matching.start_head(model, left, found, rows)
        not_loaded += f", but for {len(rows)} of {len(classes)} classes by name"
    elif rows and len(rows) == len(classes):
        not_loaded += " (they know every class by name: --match-classes would keep that)"
    if PartialState().is_main_process:
        console.say(f"{len(fitting)} weights and statistics from {where}; {not_loaded}")


def _check_fit(
    needed: dict[str, Tensor], fitting: dict[str, Tensor], content: dict, where: str, model_name: str
) -> None:
    wrong = differences(needed, fitting)
    if wrong:
        ours = "options" in content
        trained = f" (it holds {content['model']} with {content['model_args'] or 'no model-arg'})" if ours else ""
        raise ImpossibleOptions(
            f"{where}{trained} does not fit --model {model_name}: {wrong[0]} ({len(wrong)} differences); give the "
            "model that it was trained with"
        )


def _read(path: str) -> dict:
    """What a .safetensors file, a file of torch.save that holds no code, or the Hub's hf:OWNER/NAME contains."""
    file = local_file(path, "--pretrained")
    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ImpossibleOptions(f"--pretrained {path}: {error.strerror or error}; give a file of weights") from error
    except SafetensorError as error:
        raise ImpossibleOptions(f"--pretrained {path}: not a file of weights, or a damaged one ({error})") from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise ImpossibleOptions(f"--pretrained {path}: {best_weights.why_refused(error)}") from error
    if not isinstance(content, dict):
        raise ImpossibleOptions(f"--pretrained {path}: holds no weights by name")
    return content


def _from_hub(args: TrainOptions) -> dict[str, Tensor]:
    if not args.model.startswith(models.TIMM):
        raise ImpossibleOptions(
            f"--pretrained: {args.model} has no weights on the Hub: give a file, or a model of timm's"
        )
    import timm

    name = args.model.removeprefix(models.TIMM)
    try:
        return timm.create_model(name, pretrained=True, **args.model_arg).state_dict()
    except Exception as error:  # the network and the Hub fail in many ways
        reason = str(error).split("\n")[0] or type(error).__name__
        raise ImpossibleOptions(
            f"--pretrained: no weights of {args.model} from the Hub ({reason}); give a file"
        ) from error


def _plain(content: dict) -> dict[str, Tensor]:
    """The weights in a file, by the names that they have in a model that nothing is wrapped around."""
    inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), dict)), content)
    plain = {}
    for name, value in inner.items():
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        if isinstance(value, Tensor):
            plain[name] = value
    return plain


def _fitted(model: nn.Module, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's own changes to weights: names of older files, position embeddings of other sizes, other channels."""
    if not hasattr(model, "pretrained_cfg"):
        return found
    from timm.models import adapt_input_conv

    clean = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    found = clean(found, model) if clean else found
    first = model.pretrained_cfg.get("first_conv")
    for name in [first] if isinstance(first, str) else first or ():
        weight = found.get(f"{name}.weight")
        channels = model.state_dict()[f"{name}.weight"].shape[1]
        if weight is not None and weight.shape[1] == 3 and channels != 3:
            found = {**found, f"{name}.weight": adapt_input_conv(channels, weight)}
    return found
