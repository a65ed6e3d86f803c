"""The job scripts in slurm/, run by a real Slurm: out of time they save, are queued again and end as if unstopped."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from engine.checkpoints import store
from options.train import parse_train
from tests.conftest import REPOSITORY
from tests.driver import HANGS, free_port, train

SCRIPTS = sorted((REPOSITORY / "slurm").glob("*.sbatch"))
OPTIONS = "--cpu --model mlp --dataset digits --track none --checkpoint-every 100 --eval-every 100".split()
SHORT, ENDLESS = ["--epochs", "100"], ["--epochs", "100000"]  # of 20 steps
STEPS = 2000
HOST = socket.gethostname()
# Two nodes on this machine. What is requeued waits until its credential has expired, by default two minutes.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=120
SchedulerParameters=sched_interval=5,bf_interval=5
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName={host}-b NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_scripts_are_valid_and_start_train_py_with_options_that_it_has(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where there are no runs
    assert subprocess.run(["bash", "-n", script], capture_output=True, text=True).stderr == ""
    text = script.read_text()
    command = text.replace("\\\n", " ").partition("train.py --run-name")[2].partition('"$@"')[0]
    args = parse_train(["--run-name", *command.replace("$SLURM_JOB_NAME-$SLURM_JOB_ID", "job-1").split()])
    assert (args.run_name, args.resume) == ('"job-1"', "auto")
    for line in re.findall(r"^#   .*sbatch (?:--\S+ )*slurm/\S+ (.*)$", text, re.MULTILINE):
        parse_train(["--run-name", "default", "--resume", "auto", *line.split()])
    assert {"--requeue", "--signal=B:USR1@120", "--open-mode=append"} <= set(re.findall(r"^#SBATCH (\S+)", text, re.M))


def slurm(*command: str) -> str:
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Slurm with two nodes on this machine, which only these tests know of."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    programs = [shutil.which(name, path=path) for name in ("slurmctld", "slurmd", "sbatch", "srun", "scontrol")]
    if None in programs or os.geteuid() != 0:
        pytest.skip("NOT TESTED: slurm/*.sbatch under a real Slurm, which needs slurmctld, slurmd and root")
    folder = tmp_path_factory.mktemp("slurm")
    configuration = folder / "slurm.conf"
    (folder / "state").mkdir()
    configuration.write_text(CONFIGURATION.format(host=HOST, folder=folder, ports=[free_port() for _ in range(3)]))
    nodes = [[programs[1], "-D", "-N", name, "-f", str(configuration)] for name in (HOST, f"{HOST}-b")]
    daemons = []
    with pytest.MonkeyPatch.context() as patch, (folder / "log").open("w") as log:
        patch.setenv("SLURM_CONF", str(configuration))
        patch.setenv("OMP_NUM_THREADS", "1")
        for command in ([programs[0], "-D", "-f", str(configuration)], *nodes):
            daemons.append(subprocess.Popen(command, stdout=log, stderr=log))
        try:
            wait_for(lambda: all(daemon.poll() is None for daemon in daemons) and is_up(), folder / "log", 60)
            yield
        finally:
            subprocess.run(["scancel", "--user", "root", "--signal", "KILL", "--full"], capture_output=True)
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait(60)


def is_up() -> bool:
    found = subprocess.run(["sinfo", "--noheader", "--format", "%t %D"], capture_output=True, text=True)
    return found.stdout.split() == ["idle", "2"]


def wait_for(condition: Callable[[], object], log: Path, seconds: float = HANGS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text() if log.exists() else "it took too long"
        time.sleep(0.05)


def submit(script: str, folder: Path, *sbatch: str, options: list[str]) -> str:
    """Submit a script as it is; returns the job's number."""
    place = [f"--output={folder / 'log'}", "--cpus-per-task=1", *sbatch]
    printed = slurm("sbatch", *place, f"slurm/{script}.sbatch", *OPTIONS, *options, "--output-dir", str(folder))
    return printed.split()[-1]


def job(number: str, key: str) -> str:
    return re.search(rf"\b{key}=(\S+)", slurm("scontrol", "show", "job", number))[1]


def run_of(number: str, folder: Path) -> Path:
    return folder / f"sameloop-{number}"


def trains(number: str, folder: Path) -> bool:
    return bool(store.list_checkpoints(run_of(number, folder) / "checkpoints"))


def final_state(run: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (run / "checkpoints" / f"step-{STEPS}").glob("*.safetensors")}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    codes, printed = train([*OPTIONS, *SHORT, "--output-dir", str(folder), "--run-name", "run"], processes=2)
    assert codes == [0, 0], printed
    return folder / "run"


def hold(folder: Path, number: int) -> None:
    """Stop or continue the processes that train, so that none is done before what is to happen to it has happened."""
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if command[1:3] == ["-u", "train.py"] and str(folder) in command:
            process.send_signal(number)


@pytest.mark.slow
def test_out_of_time_a_job_saves_goes_back_into_the_queue_and_ends_with_the_same_bits(
    cluster: None, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROCESSES", "2")
    number = submit("train", tmp_path, options=SHORT)
    log = tmp_path / "log"
    wait_for(lambda: trains(number, tmp_path), log)
    hold(tmp_path, signal.SIGSTOP)
    hours, minutes, _ = map(int, job(number, "RunTime").split(":"))
    slurm("scontrol", "update", f"JobId={number}", f"TimeLimit={60 * hours + minutes + 2}")  # less than 120 s from here
    wait_for(lambda: "Received 10 death signal" in log.read_text(), log)
    hold(tmp_path, signal.SIGCONT)
    wait_for(lambda: job(number, "Restarts") == "1", log)
    slurm("scontrol", "update", f"JobId={number}", "TimeLimit=60")
    wait_for(lambda: job(number, "JobState") not in ("PENDING", "RUNNING", "COMPLETING"), log)
    printed = log.read_text()
    assert job(number, "JobState") == "COMPLETED", printed
    stopped_at = re.search(r"stopped at step (\d+) of 2000, saved", printed)[1]
    assert "out of time, saved: the job goes back into the queue" in printed
    assert f"at step {stopped_at} of 2000" in printed.partition("out of time")[2]
    assert final_state(run_of(number, tmp_path)) == final_state(uninterrupted)
    assert set(final_state(uninterrupted)) == {"model.safetensors", "optimizer.safetensors"}


@pytest.mark.slow
def test_scancel_saves_and_ends_the_job(cluster: None, tmp_path: Path) -> None:
    number = submit("train", tmp_path, options=ENDLESS)
    log = tmp_path / "log"
    wait_for(lambda: trains(number, tmp_path), log)
    slurm("scancel", number)
    wait_for(lambda: job(number, "JobState") == "CANCELLED", log)
    wait_for(lambda: "stopped at step" in log.read_text(), log)
    assert "back into the queue" not in log.read_text()
    assert job(number, "Restarts") == "0"


@pytest.mark.slow
def test_two_nodes_train_together_save_go_back_into_the_queue_and_end_with_the_same_bits(
    cluster: None, uninterrupted: Path, tmp_path: Path
) -> None:
    number = submit("train_multi_node", tmp_path, options=SHORT)
    log = tmp_path / "log"
    wait_for(lambda: trains(number, tmp_path), log)
    slurm("scancel", "--batch", "--signal=USR1", number)  # what Slurm itself sends, but at once
    wait_for(lambda: job(number, "Restarts") == "1", log)
    wait_for(lambda: job(number, "JobState") not in ("PENDING", "RUNNING", "COMPLETING"), log)
    printed = log.read_text()
    assert job(number, "JobState") == "COMPLETED", printed
    assert "2 processes" in printed and "stopped at step" in printed
    assert final_state(run_of(number, tmp_path)) == final_state(uninterrupted)
