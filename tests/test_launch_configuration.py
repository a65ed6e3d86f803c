"""A configuration that asks for GPUs does not train on the CPU in silence."""

import subprocess
import sys
from pathlib import Path

import pytest

from engine.runtime.launch_configuration import _asks_for_accelerator
from tests.conftest import REPOSITORY

CONFIGS = sorted((REPOSITORY / "accelerate_configs").glob("*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_our_configurations_are_told_apart_by_what_they_ask_for(config: Path) -> None:
    command = [sys.executable, "accelerate", "launch", "--config_file", str(config), "train.py"]
    assert _asks_for_accelerator(command) == (None if "cpu" in config.stem else str(config))
    assert _asks_for_accelerator([*command, "--cpu"]) is None


def test_options_of_the_launcher_ask_too() -> None:
    assert _asks_for_accelerator(["accelerate", "launch", "--multi_gpu", "train.py"]) == "--multi_gpu"
    assert _asks_for_accelerator([]) is None


# At home is where `accelerate config` puts it; one that is named is told apart above, without a launcher.
@pytest.mark.parametrize("at_home", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_process_that_the_launcher_starts_says_so_in_one_line(tmp_path: Path, at_home: bool) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from engine.runtime.launch_configuration import warn_without_accelerator\nwarn_without_accelerator()\n"
    )
    config = REPOSITORY / "accelerate_configs" / "single_gpu.yaml"
    named = ["--config_file", str(config)]
    if at_home:
        home = tmp_path / "accelerate" / "default_config.yaml"
        home.parent.mkdir()
        home.write_text(config.read_text())
        config, named = home, []
    command = [str(Path(sys.executable).with_name("accelerate")), "launch", *named, str(script)]
    env = {"PYTHONPATH": str(REPOSITORY), "HF_HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600, env=env)
    assert done.stderr.startswith(f"warning: {config} asks for GPUs and PyTorch finds none"), done.stderr
    assert done.stderr.count("\n") == 1 and "give --cpu" in done.stderr
