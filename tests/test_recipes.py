"""Every recipe is one that train.py takes, says what was measured, and gives way to what is typed."""

import json
from pathlib import Path

import pytest

from engine.options import parse_train
from engine.parsing import RECIPES
from tests.driver import train

NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))


@pytest.mark.parametrize("recipe", NAMES)
def test_a_recipe_parses_and_says_what_was_measured(recipe: str) -> None:
    assert parse_train(["--recipe", recipe]).epochs > 1
    assert parse_train(["--recipe", recipe, "--epochs", "1"]).epochs == 1
    head = (RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8")
    assert all(fact in head for fact in ("# Measured: ", " % on the test set", "n = ", "torch "))


@pytest.mark.parametrize("recipe", NAMES)
def test_a_recipe_takes_two_steps(recipe: str, tmp_path: Path, real_data: str) -> None:
    options = parse_train(["--recipe", recipe])
    batch_size = options.batch_size or 64
    short = f"--epochs 1 --batch-size {batch_size} --limit-train {2 * batch_size} --track none".split()
    short += ["--fold", "0"] if options.folds else ["--val-fraction", "0"]
    output = ["--data-dir", real_data, "--output-dir", str(tmp_path), "--run-name", "run"]
    codes, printed = train(["--recipe", recipe, *short, *output])
    assert codes == [0], printed
    assert json.loads((tmp_path / "run" / "train.json").read_text())["epochs"][0]["step"] == 2


def test_there_are_recipes() -> None:
    assert NAMES
