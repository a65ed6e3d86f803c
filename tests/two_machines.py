"""Two machines on this one: each a network namespace with an address, a host name, a home and a copy of the project.

As on Debian and Ubuntu, a machine's own name stands for 127.0.1.1 on it.
"""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from engine.checkpoints import store
from tests.conftest import REPOSITORY

PORT = "29511"
LAUNCHERS = ("accelerate", "torchrun")
FROM_OUTSIDE = ("HF_HOME", "XDG_CACHE_HOME", "PYTHONPATH", "SAMELOOP_DATA", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
LIMIT = 240  # seconds after which a start or an end is taken to hang, on a busy machine too
# train.py that writes down which images each step was given, and which processes decode.
SPIED = """
import os
from pathlib import Path
import train
from data import decode_all
from tasks.classification.task import Classification

spied = Path(os.environ["SPIED"])
training_batch, build = Classification.training_batch, decode_all.build

def spied_training_batch(self, batch, epoch):
    with (spied / f"batches.{os.environ.get('RANK', '0')}").open("a") as file:
        file.write(" ".join(map(str, batch.ids.tolist())) + "\\n")
    return training_batch(self, batch, epoch)

def spied_build(*args, **kwargs):
    with (spied / "decoded").open("a") as file:
        file.write(f"{os.environ.get('RANK', '0')}\\n")
    return build(*args, **kwargs)

Classification.training_batch, decode_all.build = spied_training_batch, spied_build
train.main()
"""


@dataclass
class Machine:
    """One of the two.

    Attributes:
        number: 0 or 1.
        namespace: of its network; its end of the cable is named `cable`.
        address: IPv4.
        folder: its disk: home/, project/, log, and what `SPIED` writes.
        cores: that its processes may run on.
        environment: of its processes, beside the usual.
    """

    number: int
    namespace: str
    cable: str
    address: str
    folder: Path
    cores: set[int]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"machine-{self.number}"

    @property
    def project(self) -> Path:
        return self.folder / "project"

    @property
    def log(self) -> str:
        """All that its processes have printed."""
        return (self.folder / "log").read_text(errors="replace")

    @property
    def errors(self) -> list[str]:
        return [line for line in self.log.splitlines() if line.startswith("error: ")]

    def start(self, *command: str) -> subprocess.Popen:
        """A command in the project's folder, with the Python of these tests first."""
        environment = {name: value for name, value in os.environ.items() if name not in FROM_OUTSIDE}
        environment |= {"HOME": str(self.folder / "home"), "SPIED": str(self.folder), "HF_HUB_OFFLINE": "1"}
        inside = f'hostname {self.name}; exec "$@"'
        with (self.folder / "log").open("a") as log:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-c", inside, "sh", *command],
                cwd=self.project,
                env={**environment, **self.environment},
                stdout=log,
                stderr=log,
                preexec_fn=lambda: os.sched_setaffinity(0, self.cores),
            )

    def processes(self) -> list[psutil.Process]:
        """Those that it runs, launchers too."""
        listed = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=False)
        return [psutil.Process(int(pid)) for pid in listed.stdout.split() if psutil.pid_exists(int(pid))]

    def workers(self) -> list[psutil.Process]:
        """The processes that train."""
        return [process for process in self.processes() if _trains(process)]

    def pull_the_plug(self) -> None:
        """End it as a loss of power does: no connection is closed first."""
        self.cut()
        for process in self.processes():
            process.kill()

    def cut(self) -> None:
        """Take the cable out."""
        subprocess.run(["ip", "-n", self.namespace, "link", "set", self.cable, "down"], check=True)

    def mend(self) -> None:
        subprocess.run(["ip", "-n", self.namespace, "link", "set", self.cable, "up"], check=True)

    def steps(self, name: str) -> list[int]:
        """The checkpoints of a run that it has, by their steps."""
        found = store.list_checkpoints(self.project / "runs" / name / "checkpoints")
        return [int(path.name.removeprefix("step-")) for path in found]


@dataclass
class Pair:
    """Both machines, and how a run is started on them."""

    machines: list[Machine]

    def start(
        self,
        launcher: str,
        options: list[str],
        script: str = "train.py",
        each: int = 1,
        first: int = 0,
        more: Sequence[str] = (),
        own: Sequence[Sequence[str]] = ((), ()),
    ) -> list[subprocess.Popen]:
        """A run on both machines.

        Args:
            launcher: one of LAUNCHERS; `more`: its options.
            options: of `script`; `own`: those of each machine alone.
            each: processes on a machine.
            first: the machine that has rank 0.
        """
        started = []
        for machine in self.machines:
            rank, address = (machine.number + first) % 2, self.machines[first].address
            if launcher == "accelerate":
                command = ["-m", "accelerate.commands.launch"]
                command += ["--config_file", "accelerate_configs/multi_node_cpu.yaml", "--machine_rank", str(rank)]
                command += ["--num_processes", str(2 * each), "--main_process_ip", address]
                command += ["--main_process_port", PORT]
            else:
                nodes = [] if "--nnodes" in more else ["--nnodes", "2"]
                command = ["-m", "torch.distributed.run", *nodes, "--nproc-per-node", str(each)]
                command += ["--rdzv-backend", "c10d", "--rdzv-id", "run", "--rdzv-endpoint", f"machine-{first}:{PORT}"]
            started.append(
                machine.start(sys.executable, *command, *more, script, "--cpu", *options, *own[machine.number])
            )
        return started

    def cut(self) -> None:
        """Take the cable out at both ends."""
        for machine in self.machines:
            machine.cut()

    def clear(self) -> None:
        """End what still runs, put the cable back, and forget what was printed."""
        for machine in self.machines:
            for process in machine.processes():
                process.kill()
            machine.mend()
            (machine.folder / "log").write_text("")


def until(condition: Callable[[], object], started: list[subprocess.Popen], logs: list[Machine]) -> None:
    """Wait for a condition while all that was started goes on."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        printed = "\n".join(machine.log for machine in logs)
        assert all(process.poll() is None for process in started), f"it ended too early:\n{printed}"
        assert time.monotonic() < deadline, f"it took too long:\n{printed}"
        time.sleep(0.1)


def a_moment() -> None:
    """Some random part of a few steps."""
    time.sleep(random.uniform(0, 1))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Two machines, joined by a cable."""
    if sys.platform != "linux" or os.getuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "hostname"))):
        pytest.skip("NOT TESTED on two machines: only root on Linux, with iproute2, can make network namespaces")
    names = [f"sameloop-{os.getpid()}-{number}" for number in (0, 1)]
    made = subprocess.run(["ip", "netns", "add", names[0]], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"NOT TESTED on two machines: no network namespaces here ({made.stderr.strip()})")
    try:
        subprocess.run(["ip", "netns", "add", names[1]], check=True)
        cables = [f"sl{os.getpid() % 10**8}-{number}" for number in (0, 1)]
        ends = ["name", cables[0], "netns", names[0], "type", "veth", "peer", "name", cables[1], "netns", names[1]]
        subprocess.run(["ip", "link", "add", *ends], check=True)
        yield Pair([_machine(number, names[number], cables[number], tmp_path) for number in (0, 1)])
    finally:
        for name in names:
            listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
            for pid in listed.stdout.split():
                psutil.Process(int(pid)).kill()
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)


def _machine(number: int, namespace: str, cable: str, tmp_path: Path) -> Machine:
    cores = sorted(os.sched_getaffinity(0))
    own = {cores[number % len(cores)]}
    machine = Machine(number, namespace, cable, f"10.77.0.{number + 1}", tmp_path / f"machine {number}", own)
    for command in (
        ["address", "add", f"{machine.address}/24", "dev", cable],
        ["link", "set", "lo", "up"],
        ["link", "set", cable, "up"],
    ):
        subprocess.run(["ip", "-n", namespace, *command], check=True)
    names = [f"127.0.1.1 {machine.name}", f"10.77.0.{2 - number} machine-{1 - number}", "127.0.0.1 localhost"]
    hosts = Path("/etc/netns") / namespace / "hosts"  # what `ip netns exec` shows as /etc/hosts
    hosts.parent.mkdir(parents=True)
    hosts.write_text("".join(f"{line}\n" for line in names))
    (machine.folder / "home").mkdir(parents=True)
    left_out = shutil.ignore_patterns(".*", "runs", "tests", "__pycache__")
    shutil.copytree(REPOSITORY, machine.project, ignore=left_out)
    (machine.project / "spied.py").write_text(SPIED)
    (machine.folder / "log").touch()
    return machine


def _trains(process: psutil.Process) -> bool:
    try:
        return "RANK" in process.environ() and process.name().startswith("python")
    except psutil.Error:  # it has ended
        return False
