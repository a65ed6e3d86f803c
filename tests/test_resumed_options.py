"""--resume needs no more than the run: its options are its own; of a name that is no run's it says which there are."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from common.errors import UserError
from options.train import parse_train
from tests.conftest import REPOSITORY
from tests.driver import Fault, train

OPTIONS = (
    "--cpu --track none --model mlp --limit-train 128 --batch-size 32 --mixed-precision no --model-arg hidden=8 "
    "--seed 3 --epochs 2 --checkpoint-every 3"
).split()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs in which "my run" was killed at step 5 of 8."""
    place = tmp_path_factory.mktemp("runs")
    codes, printed = train([*OPTIONS, "--output-dir", str(place), "--run-name", "my run"], fault=Fault(kill_after=5))
    assert codes == [-9], printed
    return place


def options(folder: Path) -> dict:
    return yaml.safe_load((folder / "args.yaml").read_text())


def test_a_path_alone_goes_on_with_the_runs_own_options_in_its_folder(runs: Path) -> None:
    run = runs / "my run"
    before = options(run)
    codes, printed = train(["--resume", str(run), "--output-dir", str(runs)])
    assert codes == [0] and "at step 3 of 8" in printed, printed
    assert options(run) == before
    codes, printed = train(["--resume", "auto", "--run-name", "my run", "--output-dir", str(runs), "--epochs", "3"])
    assert codes == [0] and "at step 8 of 12" in printed, printed
    assert options(run) == before | {"epochs": 3}
    assert [path.name for path in runs.iterdir() if path.is_dir()] == ["my run"]


def test_options_that_may_not_change_are_refused_with_both_values(runs: Path) -> None:
    codes, printed = train(["--resume", str(runs / "my run"), "--output-dir", str(runs), "--seed", "5", "--keep", "1"])
    assert codes == [2]
    assert "--seed was 3 and is 5" in printed and "keep" not in printed


@pytest.mark.parametrize(
    "asked, says",
    [
        ("--resume auto --run-name my-run", "no such run: did you mean '{0}/my run'\\?; to start it, give its options"),
        ("--resume auto --run-name other", "no such run: the runs in {0} are my run"),
        ("--resume {0}/myrun", "--resume {0}/myrun does not exist: did you mean '{0}/my run'"),
    ],
)
def test_a_name_that_is_no_runs_is_answered_with_those_there_are(asked: str, says: str, runs: Path) -> None:
    with pytest.raises(UserError, match=says.format(runs)):
        parse_train([*shlex.split(asked.format(runs)), "--output-dir", str(runs)])


def test_a_script_that_always_resumes_starts_its_run_by_the_same_line(runs: Path, tmp_path: Path) -> None:
    line = [*OPTIONS, "--resume", "auto", "--run-name", "my-run", "--output-dir"]
    assert parse_train([*line, str(runs)]).seed == 3
    codes, printed = train([*line, str(tmp_path)])
    assert codes == [0] and f"no checkpoint in {tmp_path / 'my-run'}: starting afresh\n" in printed


def test_several_runs_are_not_taken_for_one(tmp_path: Path) -> None:
    for name in ("seed-0", "seed-1"):
        (tmp_path / "group" / name).mkdir(parents=True)
        (tmp_path / "group" / name / "args.yaml").write_text("seed: 1\n")
    for asked in (["--resume", "auto", "--run-name", "group"], ["--resume", str(tmp_path / "group")]):
        with pytest.raises(UserError, match=r"group holds several runs \(seed-0, seed-1\).*--resume .*group/seed-0"):
            parse_train([*asked, "--output-dir", str(tmp_path)])
    member = parse_train(["--resume", str(tmp_path / "group" / "seed-0")])
    assert (member.seed, member.output_dir, member.run_name) == (1, str(tmp_path / "group"), "seed-0")


def test_the_commands_that_a_run_prints_can_be_pasted(tmp_path: Path) -> None:
    """Into a shell, though there is a space in the folder's name."""
    where = ["--output-dir", str(tmp_path / "my runs"), "--run-name", "a b"]
    codes, printed = train([*OPTIONS, *where, "--max-time", "0.01s"])
    assert codes == [0], printed
    command = printed.split("to go on: python train.py ")[1].splitlines()[0]
    codes, printed = train([*shlex.split(command), *where], fault=Fault(report=True))
    assert codes == [0], printed
    predict = next(line for line in printed.splitlines() if line.startswith("predict")).split("infer.py ")[1]
    infer = f"{shlex.quote(sys.executable)} infer.py --cpu {predict.replace('IMAGE_OR_FOLDER ...', '--output ')}"
    infer += shlex.quote(str(tmp_path / "test.json"))
    subprocess.run(["bash", "-c", infer], cwd=REPOSITORY, check=True, capture_output=True)
    assert len(json.loads((tmp_path / "test.json").read_text())) == 359
