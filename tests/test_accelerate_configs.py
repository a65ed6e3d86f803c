"""Every file in accelerate_configs/ starts what its head comment says, read by accelerate's own launcher."""

import shlex
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import (
    FullyShardedDataParallelPlugin,
    prepare_multi_gpu_env,
    prepare_simple_launcher_cmd_env,
)

FOLDER = Path(__file__).parent.parent / "accelerate_configs"

# name: (distributed type, machines, processes of all machines together, which launcher accelerate takes)
EXPECTED = {
    "cpu": ("NO", 1, 1, "simple"),
    "multi_cpu": ("MULTI_CPU", 1, 2, "simple"),
    "single_gpu": ("NO", 1, 1, "simple"),
    "multi_gpu": ("MULTI_GPU", 1, 2, "multi_gpu"),
    "multi_node": ("MULTI_GPU", 2, 4, "multi_gpu"),
    "multi_node_cpu": ("MULTI_GPU", 2, 2, "multi_gpu"),
    "xpu": ("NO", 1, 1, "simple"),
    "multi_xpu": ("MULTI_XPU", 1, 2, "multi_gpu"),
    "fsdp2": ("FSDP", 1, 2, "use_fsdp"),
}
LAUNCHERS = ("multi_gpu", "use_fsdp", "tpu", "use_deepspeed", "use_megatron_lm")

each_config = pytest.mark.parametrize("name", EXPECTED)


def launch_args(path, *options):
    """The launcher's arguments once `path` is merged into them, as `accelerate launch` does it.

    accelerate refuses unknown keys at the top, sets unknown keys of a section without a word, and ignores a
    key whose option has a default that is not None. Here all three raise ValueError.
    """
    parser = launch_command_parser()
    options_known = vars(parser.parse_args(["train.py"])).keys()
    raw = yaml.safe_load(path.read_text())
    load_config_from_file(str(path))
    args = parser.parse_args(["--config_file", str(path), *options, "train.py"])
    args, _, _ = _validate_launch_command(args)

    wanted = {k: v for k, v in raw.items() if k not in ("compute_environment", "distributed_type")}
    for section in [k for k, v in wanted.items() if isinstance(v, dict)]:
        wanted |= (inner := wanted.pop(section))
        if unknown := inner.keys() - options_known:
            raise ValueError(f"{path.name}: {section} has unknown keys {sorted(unknown)}")
    if not options and (lost := [k for k, v in wanted.items() if getattr(args, k) != v]):
        raise ValueError(f"{path.name}: {lost} have no effect")
    return args


def head(path):
    """The comment lines before the first key, without their `#`."""
    lines = path.read_text().splitlines()
    first_key = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return [line[1:].strip() for line in lines[:first_key]]


def test_all_nine_files_are_there_and_no_other():
    assert {p.name for p in FOLDER.iterdir()} == {f"{name}.yaml" for name in EXPECTED}


@each_config
def test_launches_what_its_name_says(name):
    path = FOLDER / f"{name}.yaml"
    distributed_type, num_machines, num_processes, launcher = EXPECTED[name]
    args = launch_args(path)
    assert load_config_from_file(str(path)).distributed_type == distributed_type
    assert (args.num_machines, args.num_processes) == (num_machines, num_processes)
    assert [x for x in LAUNCHERS if getattr(args, x)] == ([] if launcher == "simple" else [launcher])
    assert args.use_cpu == (name in ("cpu", "multi_cpu", "multi_node_cpu"))
    assert args.mixed_precision == "no"  # train.py chooses


@each_config
def test_head_comment_holds_start_commands_that_accelerate_accepts(name):
    path = FOLDER / f"{name}.yaml"
    commands = [shlex.split(line) for line in head(path) if line.startswith("accelerate launch ")]
    assert commands
    for command in commands:
        args = launch_command_parser().parse_args(command[2:])
        assert args.config_file == f"accelerate_configs/{name}.yaml"
        assert args.training_script == "train.py"
        args.config_file = str(path)
        _validate_launch_command(args)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("cpu", "use_cpu: true", "use_cpu: true\nnum_cpus: 2"),
        ("fsdp2", "fsdp_version: 2", "fsdp_version: 2\n  fsdp_shards: 2"),
        ("multi_cpu", "mpirun_hostfile:", "mpirun_hosts:"),
        ("multi_node", "rdzv_backend: static", "rdzv_backend: c10d"),
        ("multi_node", "rdzv_backend: static", "same_network: true"),
    ],
    ids=["unknown at top", "unknown in section", "misspelt", "ignored rdzv_backend", "ignored same_network"],
)
def test_a_key_that_accelerate_does_not_use_is_caught(tmp_path, name, old, new):
    text = (FOLDER / f"{name}.yaml").read_text()
    assert old in text
    changed = tmp_path / f"{name}.yaml"
    changed.write_text(text)
    launch_args(changed)  # the copy itself is sound
    changed.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=r"unknown keys|no effect"):
        launch_args(changed)


def test_the_command_line_wins_over_the_file():
    assert launch_args(FOLDER / "multi_gpu.yaml", "--num_processes", "8").num_processes == 8
    assert launch_args(FOLDER / "multi_node.yaml", "--machine_rank", "1").machine_rank == 1


def test_multi_node_gives_each_machine_its_part():
    args = launch_args(FOLDER / "multi_node.yaml", "--machine_rank", "1")
    prepare_multi_gpu_env(args)
    assert (args.nnodes, args.nproc_per_node, args.node_rank) == ("2", "2", 1)
    assert args.rdzv_endpoint == "192.0.2.1:29500"


def test_fsdp2_is_version_2_to_the_end(monkeypatch):
    env = prepare_multi_gpu_env(launch_args(FOLDER / "fsdp2.yaml"))
    for key in (k for k in env if k.startswith("FSDP_")):
        monkeypatch.setenv(key, env[key])
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.min_num_params == 1_000_000
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    assert plugin.cpu_ram_efficient_loading is False


def test_multi_cpu_starts_two_processes_through_mpirun(tmp_path, monkeypatch):
    mpirun = tmp_path / "mpirun"
    mpirun.write_text("#!/bin/sh\necho 'mpirun (Open MPI) 5.0'\n")
    mpirun.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    command, env = prepare_simple_launcher_cmd_env(launch_args(FOLDER / "multi_cpu.yaml"))
    assert command[:7] == ["mpirun", "--hostfile", "hostfile", "--npernode", "2", "-n", "2"]
    assert command[-1] == "train.py"
    assert env["ACCELERATE_USE_CPU"] == "True"


def test_multi_cpu_without_mpirun_fails_instead_of_starting_one_process(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match="mpirun or mpiexec were not found"):
        prepare_simple_launcher_cmd_env(launch_args(FOLDER / "multi_cpu.yaml"))
