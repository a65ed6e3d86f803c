"""Runs that start in the same second have folders of their own, ~ is the home folder, and locks are no condition."""

import errno
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, tzinfo
from pathlib import Path

import pytest

import train
from common.errors import UserError
from engine.output import run_dir
from options.bench import parse_bench
from options.compare import parse_compare
from options.infer import parse_infer
from options.train import parse_train
from tests.conftest import fresh_process

TINY = "--cpu --dataset digits --model mlp --track none --epochs 1 --limit-train 64 --output-dir".split()


class Stopped(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        return datetime(2026, 1, 1, tzinfo=tz or UTC)


def test_runs_without_a_name_that_start_in_the_same_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_dir, "datetime", Stopped)
    fresh_process()
    found = [train.main([*TINY, str(tmp_path), *more])["folder"] for more in ((), (), ("--seeds", "0"), ())]
    name = "digits-mlp-20260101-000000"
    assert found == [str(tmp_path / f"{name}{number}") for number in ("", "-2", "-3", "-4")]
    assert (tmp_path / f"{name}-2" / "test.json").exists()
    assert (tmp_path / f"{name}-3" / "seed-0" / "test.json").exists()


def test_however_many_ask_at_once_each_gets_a_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(run_dir.make_new, [tmp_path / "runs" / "run"] * 16))
    expected = {tmp_path / "runs" / "run", *(tmp_path / "runs" / f"run-{number}" for number in range(2, 17))}
    assert set(made) == expected
    assert set((tmp_path / "runs").iterdir()) == expected


@pytest.mark.parametrize(
    ("parse", "arguments", "option"),
    [
        *((parse_train, [f"--{name}=~/x"], name.replace("-", "_")) for name in ("output-dir", "pretrained")),
        (parse_train, ["--recipe", "{recipe}"], "output_dir"),
        (parse_train, ["--recipe=~/recipe.yaml"], "output_dir"),
        *((parse_infer, ["--weights=w", f"--{name}=~/x"], name) for name in ("weights", "output")),
        (parse_infer, ["--weights=w", "~/x"], "images"),
        (parse_bench, ["--output-dir=~/x"], "output_dir"),
        (parse_bench, ["--weights", "~/x"], "weights"),
        (parse_compare, ["runs", "--output-dir=~/x"], "output_dir"),
        (parse_compare, ["~/x"], "runs"),
    ],
)
def test_a_tilde_is_the_home_folder(
    parse: Callable, arguments: list[str], option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("output_dir: ~/x\n")
    found = getattr(parse([argument.format(recipe=recipe) for argument in arguments]), option)
    assert found == ([str(tmp_path / "x")] if isinstance(found, list) else str(tmp_path / "x"))


def test_a_run_to_go_on_with_is_looked_for_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    with pytest.raises(UserError, match=re.escape(f"--resume {tmp_path / 'x'} does not exist")):
        parse_train(["--resume=~/x"])


@pytest.mark.skipif(run_dir.fcntl is None, reason="a system without such locks")
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_a_file_system_without_locks_is_told_and_written_to(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(run_dir.fcntl, "flock", refuse)
    run_dir.release(run_dir.claim(tmp_path / "run"))
    assert (tmp_path / "run").is_dir()
    said = capsys.readouterr().err
    assert said.startswith(f"warning: nothing keeps another run out of {tmp_path / 'run'}")
    assert said.count("\n") == 1
