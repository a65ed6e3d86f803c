"""Up to its first step a run has imported nothing that it does not need: each of these takes a second or more."""

import subprocess
import sys

from tests.conftest import REPOSITORY
from tests.driver import HANGS

PROGRAM = """
import sys
import train

class FirstStep(Exception):
    pass

def first_step(run):
    next(steps(run))
    raise FirstStep

steps, train.steps = train.steps, first_step
for more in ("--optimizer sgd", "--optimizer adamw --ema 0.9", "--optimizer muon --augment flip,mixup"):
    options = "--cpu --track none --model cnn --model-arg width=8 --limit-train 64 --batch-size 32 --epochs 1"
    try:
        train.main([*options.split(), *more.split(), "--output-dir", sys.argv[1]])
    except FirstStep:
        pass
for name in ("torch._dynamo", "torch.distributed.tensor", "matplotlib", "tensorboard", "sklearn.metrics"):
    print(name, name in sys.modules)
"""


def test_the_compiler_pictures_and_measures_of_the_report_are_not_imported_before_the_first_step(tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-5:] == [
        "torch._dynamo False",
        "torch.distributed.tensor False",
        "matplotlib False",
        "tensorboard False",
        "sklearn.metrics False",
    ]
