"""docs/extending.md is true: its steps, taken word by word in a copy of the project, add what they say."""

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, write_images
from tests.test_mutations import copy_project

STEP = re.compile(
    r"^(?:New file `(?P<new>[^`]+)`|In `(?P<file>[^`]+)`, below `(?P<anchor>[^`]+)`):\n\n```python\n(?P<code>.*?)```",
    re.M | re.S,
)


def steps() -> dict[str, list[re.Match]]:
    """The steps of each section."""
    found = defaultdict(list)
    for section in (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        found[section.splitlines()[0]] = list(STEP.finditer(section))
    return {title: matches for title, matches in found.items() if matches}


def take(step: re.Match, project: Path) -> None:
    """Write a new file, or put code below the one line that is the anchor."""
    if step["new"]:
        path = project / step["new"]
        path.parent.mkdir(exist_ok=True)
        path.write_text(step["code"], encoding="utf-8")
        return
    path = project / step["file"]
    text = path.read_text(encoding="utf-8")
    anchor = f"\n{step['anchor']}\n"
    assert text.count(anchor) == 1, step["anchor"]
    path.write_text(text.replace(anchor, anchor + step["code"]), encoding="utf-8")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = copy_project(tmp_path_factory.mktemp("extended") / "project")
    for section in steps().values():
        for step in section:
            take(step, project)
    return project


def test_nothing_takes_more_than_two_files() -> None:
    files = {title: {step["new"] or step["file"] for step in section} for title, section in steps().items()}
    assert files.keys() == {
        "A model",
        "A data set",
        "An augmentation",
        "A metric of each epoch",
        "An optimizer",
        "A task",
    }
    assert all(len(names) <= 2 for names in files.values()), files


def test_all_that_was_added_trains_together(extended: Path, tmp_path: Path) -> None:
    for seed, name in enumerate(("square", "cross")):
        write_images(tmp_path / "data" / "shapes" / name, 40, seed=seed)
    options = "--cpu --track none --model linear --model-arg dropout=0.1 --dataset shapes --augment invert=0.3 "
    options += "--optimizer adamax --lr 0.01 --task poly --epochs 2 --run-name run"
    command = [sys.executable, str(extended / "train.py"), *options.split(), "--output-dir", str(tmp_path / "runs")]
    command += ["--data-dir", str(tmp_path / "data")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "runs" / "run"
    epochs = json.loads((run / "train.json").read_text())["epochs"]
    assert len(epochs) == 2
    for epoch in epochs:
        assert 0.5 <= epoch["train_confidence"] <= 1 and 0.5 <= epoch["val_confidence"] <= 1
    assert json.loads((run / "test.json").read_text())["samples"] == 16
    command = [sys.executable, str(extended / "infer.py"), "--cpu", "--weights", str(run)]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
