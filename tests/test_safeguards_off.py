"""Negative controls: with a safeguard switched off, the test of its promise fails, by the very claim it is about."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.safeguards import CONTROLS, Control


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.promise.replace(" ", "-"))
def test_a_control_edits_code_that_is_there_and_names_a_claim_that_is_made(control: Control) -> None:
    text = (REPOSITORY / control.file).read_text(encoding="utf-8")
    assert text.count(control.old) == 1
    compile(text.replace(control.old, control.new), control.file, "exec")
    file, _, name = control.test.partition("::")
    claims = (REPOSITORY / file).read_text(encoding="utf-8")
    assert f"def {name.partition('[')[0]}(" in claims
    assert re.search(rf"^ +{re.escape(control.claim)}", claims, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.promise.replace(" ", "-"))
def test_without_its_safeguard_a_promise_is_broken_and_its_test_fails(tmp_path: Path, control: Control) -> None:
    project = copy_project(tmp_path / "project")
    place = project / control.file
    place.write_text(place.read_text(encoding="utf-8").replace(control.old, control.new), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--basetemp", tmp_path / "inner"]
    # Some prove that a run would hang without the safeguard: they are not to wait for it as long as the others.
    environment = os.environ | {"SAMELOOP_TEST_HANGS": "90"}
    done = subprocess.run([*command, control.test], cwd=project, env=environment, capture_output=True, text=True)
    if done.returncode == 0 and "NOT TESTED" in done.stdout:
        pytest.skip(re.search("NOT TESTED.*", done.stdout)[0])
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(rf"^>\s+{re.escape(control.claim)}", done.stdout, re.MULTILINE), done.stdout


def copy_project(folder: Path) -> Path:
    """The scripts and rooms of this checkout, without what else lies there: runs, an environment."""
    for room in REPOSITORY.iterdir():
        if any(room.glob("*.py")) or any(room.glob("*.yaml")):
            shutil.copytree(room, folder / room.name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in [*REPOSITORY.glob("*.py"), REPOSITORY / "pyproject.toml"]:
        shutil.copy(file, folder)
    return folder
