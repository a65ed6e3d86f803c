"""The model card: README.md of a repository on the Hub, metadata in YAML and then what a reader should know."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from common.console import duration, percent
from common.hub import SCHEME, is_id
from common.tables import as_markdown
from data.sources import NAMED
from models import TIMM
from options.groups import OPTIONS
from pages.run_page import changed_options

FEWEST = 5  # classes that are named for their few test images
NAMED_CLASSES = 20  # after which the list of classes is cut
CAPTIONS = {
    "confusion_matrix.png": "Confusion matrix",
    "examples.png": "Test images and what the model says of them",
    "curves.png": "Curves of the training",
}
Run = Mapping[str, Mapping]  # "test", "train" and "environment": what the JSON file of that name holds, {} without one


def read_run(folder: Path) -> dict[str, dict]:
    """What the folder of a run says of its test, training and machine."""
    found = {}
    for name in ("test", "train", "environment"):
        path = folder / f"{name}.json"
        found[name] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def card(content: Mapping, run: Run, pictures: Sequence[str], repository: str | None, license: str | None) -> str:
    """The whole text.

    Args:
        content: of best.pth, with options that may be public.
        run: from `read_run`.
        pictures: names of files beside the card.
        repository: OWNER/NAME that it is for; None where that is not known.
        license: the Hub's name of one; None: the card names none.
    """
    name = repository.split("/")[1] if repository else f"{_data_set(content)}-{content['model'].removeprefix(TIMM)}"
    metadata = yaml.safe_dump(_metadata(content, run, name, license), sort_keys=False, allow_unicode=True, width=120)
    sections = [
        f"---\n{metadata}---\n\n# {name}",
        _what(content),
        "## Test\n\n" + _figures(run["test"]),
        "## Limits\n\n" + "\n".join(f"- {line}" for line in _limits(content, run["test"])),
        "## Use\n\n" + _use(content, repository),
        "## Training\n\n" + _training(content, run),
    ]
    if pictures:
        sections.append("## Pictures\n\n" + "\n\n".join(f"![{CAPTIONS[file]}]({file})" for file in pictures))
    return "\n\n".join(sections) + "\n"


def _data_set(content: Mapping) -> str:
    return content["options"]["dataset"].split("/")[-1]


def _hub_data_set(content: Mapping) -> str | None:
    """The Hub id of the data set, if it has one."""
    dataset = content["options"]["dataset"]
    return (NAMED[dataset][0] or None) if dataset in NAMED else dataset if is_id(dataset) else None


def _metadata(content: Mapping, run: Run, name: str, license: str | None) -> dict:
    of_timm, on_hub, test = content["model"].startswith(TIMM), _hub_data_set(content), run["test"]
    metadata = {"license": license} if license else {}
    metadata |= {
        "library_name": "timm" if of_timm else "sameloop",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "pytorch", "sameloop", *(["timm"] if of_timm else [])],
        "metrics": ["accuracy"],
    }
    if on_hub:
        metadata["datasets"] = [on_hub]
    if test:
        metadata["model-index"] = [{"name": name, "results": [_result(content, test, on_hub)]}]
    return metadata


def _result(content: Mapping, test: Mapping, on_hub: str | None) -> dict:
    metrics = {"accuracy": ("accuracy", test["accuracy"]), "f1": ("macro F1", test["f1"]["macro"])}
    return {
        "task": {"type": "image-classification"},
        "dataset": {"name": _data_set(content), "type": on_hub or _data_set(content), "split": "test"},
        "metrics": [
            {"type": kind, "name": f"{words} on {test['samples']:,} test images", "value": value}
            for kind, (words, value) in metrics.items()
        ],
    }


def _what(content: Mapping) -> str:
    names, on_hub = content["class_names"], _hub_data_set(content)
    data = f"[{on_hub}](https://huggingface.co/datasets/{on_hub})" if on_hub else f"`{_data_set(content)}`"
    height, width, channels = content["shape"]
    side = content["options"].get("input_size")
    resized = f" and from there to {side}x{side}" if side and (height, width) != (side, side) else ""
    shown = ", ".join(_plain(name) for name in names[:NAMED_CLASSES])
    more = f" and {len(names) - NAMED_CLASSES} more" if len(names) > NAMED_CLASSES else ""
    colour = "grey" if channels == 1 else "colour"
    return (
        f"An image classifier, `{content['model']}`, trained on {data}. It takes {colour} images, brought to "
        f"{width}x{height} pixels{resized}, and names one of {len(names)} classes: {shown}{more}."
    )


def _plain(name: str) -> str:
    """A class's name in Markdown: nothing in it is markup."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>#|" else letter for letter in " ".join(name.split()))


def _figures(test: Mapping) -> str:
    if not test:
        return "There is no report of a test beside these weights."
    between = {name: " to ".join(percent(end) for end in ends) for name, ends in test.get("intervals", {}).items()}
    rows = [["metric", "value", "95 % interval"]]
    rows.append(["accuracy", percent(test["accuracy"]), between.get("accuracy", "")])
    rows.append(["macro F1", percent(test["f1"]["macro"]), between.get("macro_f1", "")])
    if test.get("calibration"):
        rows.append(["calibration error", percent(test["calibration"]["error"]), ""])
    return (
        f"On {test['samples']:,} test images, which were looked at once, after training. The intervals are those of "
        f"resampled test images.\n\n{as_markdown(rows)}"
    )


def _limits(content: Mapping, test: Mapping) -> list[str]:
    lines = [
        "The figures are of images from the same source as the training images. They say nothing about other kinds of "
        "photos: try it on yours before you rely on it.",
        "Every picture is given one of its classes, also one that shows none of them.",
    ]
    counted = sorted((row["support"], name) for name, row in test.get("per_class", {}).items())
    if counted:
        few = ", ".join(f"{_plain(name)} ({support})" for support, name in counted[:FEWEST])
        lines.append(f"The classes with the fewest test images, whose figures are the least certain: {few}.")
    twice = test.get("data", {}).get("test_images_also_in_train", 0)
    if twice:
        lines.append(f"Test images that are in the training set too, pixel by pixel: {twice:,} of {test['samples']:,}.")
    if content.get("temperature") is None:
        lines.append("Its probabilities were not calibrated.")
    return lines


def _use(content: Mapping, repository: str | None) -> str:
    weights = f"{SCHEME}{repository}" if repository else "best.pth"
    lines = ["from infer import load  # in a checkout of Sameloop", f'answer = load("{weights}")("photo.jpg")']
    text = "\n".join(["```python", *lines, "print(answer.label, answer.probability)", "```"])
    if content["model"].startswith(TIMM) and repository:
        text += f'\n\nThe network alone: `timm.create_model("hf-hub:{repository}", pretrained=True)`.'
    return text


def _training(content: Mapping, run: Run) -> str:
    lines, notes, epochs = [], run["test"].get("data", {}), run["train"].get("epochs", [])
    if notes.get("train_images"):
        lines.append(f"{notes['train_images']:,} training and {notes['val_images']:,} validation images.")
    if epochs:
        seconds = duration(sum(epoch["seconds"] for epoch in epochs))
        count = "1 epoch" if len(epochs) == 1 else f"{len(epochs)} epochs"
        lines.append(f"{count} in {seconds}; the weights are of epoch {run['train']['best_epoch']}.")
    if run["environment"]:
        lines.append(_machine(run["environment"]))
    kept = {name: value for name, value in content["options"].items() if name in OPTIONS and OPTIONS[name].is_compared}
    rows = changed_options(kept)
    if rows:
        lines.append("Options that differ from the defaults:")
    text = " ".join(lines)
    return f"{text}\n\n{as_markdown([['option', 'value', 'default'], *rows])}" if rows else text


def _machine(environment: Mapping) -> str:
    found = environment.get("accelerators") if environment.get("device") != "cpu" else None
    hardware = ", ".join(found) if found else f"{environment.get('cpu')}, {environment.get('cpu_cores')} cores"
    commit = environment.get("git_commit")
    versions = f"Sameloop {environment.get('sameloop')}" + (f" (commit {commit})" if commit else "")
    torch = environment.get("packages", {}).get("torch")
    precision = environment.get("mixed_precision")
    return (
        f"Hardware: {hardware}; processes: {environment.get('num_processes')}; mixed precision: {precision}. "
        f"{versions}" + (f", PyTorch {torch}." if torch else ".")
    )
