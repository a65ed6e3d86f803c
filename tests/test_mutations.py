"""Negative controls: with a safeguard switched off, the test of its promise fails, by the very claim it is about."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.mutations import MUTATIONS, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.promise.replace(" ", "-"))
def test_a_mutation_edits_code_that_is_there_and_names_a_claim_that_is_made(mutation: Mutation) -> None:
    text = (REPOSITORY / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1
    compile(text.replace(mutation.old, mutation.new), mutation.file, "exec")
    file, _, name = mutation.test.partition("::")
    claims = (REPOSITORY / file).read_text(encoding="utf-8")
    assert f"def {name.partition('[')[0]}(" in claims
    assert re.search(rf"^ +{re.escape(mutation.claim)}", claims, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.promise.replace(" ", "-"))
def test_without_its_safeguard_a_promise_is_broken_and_its_test_fails(tmp_path: Path, mutation: Mutation) -> None:
    project = copy_project(tmp_path / "project")
    place = project / mutation.file
    place.write_text(place.read_text(encoding="utf-8").replace(mutation.old, mutation.new), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "slow or not slow"]
    command += ["--basetemp", tmp_path / "inner"]
    # Some prove that a run would hang without the safeguard: they are not to wait for it as long as the others.
    environment = os.environ | {"SAMELOOP_TEST_HANGS": "90"}
    done = subprocess.run([*command, mutation.test], cwd=project, env=environment, capture_output=True, text=True)
    if done.returncode == 0 and "NOT TESTED" in done.stdout:
        pytest.skip(re.search("NOT TESTED.*", done.stdout)[0])
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(rf"^>\s+{re.escape(mutation.claim)}", done.stdout, re.MULTILINE), done.stdout


def copy_project(folder: Path) -> Path:
    """The scripts and rooms of this checkout, without what else lies there: runs, an environment."""
    for room in REPOSITORY.iterdir():
        if any(room.glob("*.py")) or any(room.glob("*.yaml")):
            shutil.copytree(room, folder / room.name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in [*REPOSITORY.glob("*.py"), REPOSITORY / "pyproject.toml"]:
        shutil.copy(file, folder)
    return folder
