"""What the configuration of accelerate launch asks for, of which it hands no word on to a single process."""

import itertools
from pathlib import Path

import psutil
import yaml
from accelerate.commands.config.config_args import default_config_file

from common import console

ON_CPUS = ("NO", "MULTI_CPU")  # kinds of distributed training that need no GPU


def warn_without_accelerator() -> None:
    """Say, from the first process, that the run is on the CPU though its launcher's configuration is for GPUs."""
    asked = _asks_for_accelerator(_launchers_command())
    if asked and console.is_first_process():
        console.note(
            f"warning: {asked} asks for GPUs and PyTorch finds none, so this runs on the CPU: see whether nvidia-smi "
            "lists one and torch is built for it (python -m torch.utils.collect_env), or give --cpu if that is meant"
        )


def _launchers_command() -> list[str]:
    """The command line of accelerate launch, which is the parent of each process that it starts; else empty."""
    try:
        command = psutil.Process().parent().cmdline()
    except (psutil.Error, AttributeError):  # it has ended, or may not be asked
        return []
    return command if any(Path(word).name.startswith("accelerate") for word in command[:4]) else []


def _asks_for_accelerator(command: list[str]) -> str | None:
    """The option or the configuration file by which the launcher's command asks for GPUs."""
    if not command or "--cpu" in command:
        return None
    flags = [word for word in command if word in ("--multi_gpu", "--gpu_ids") or word.startswith("--gpu_ids=")]
    if flags:
        return flags[0].split("=")[0]
    given = [value for word, value in itertools.pairwise(command) if word == "--config_file"]
    given += [word.split("=", 1)[1] for word in command if word.startswith("--config_file=")]
    path = Path(given[0] if given else default_config_file)
    if not path.is_file():
        return None
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("use_cpu"):
        return None
    gpus = "gpu_ids" in content or content.get("distributed_type", "NO") not in ON_CPUS
    return str(path) if gpus else None
