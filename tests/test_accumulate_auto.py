"""--accumulate auto finds the fewest micro-batches that fit, before the first step or at it, as if they were typed."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from engine.micro_batches import remedy
from options.train import parse_train
from tests.driver import Fault, train
from tests.test_stream import write_shard

# What a step keeps of 64 images is many times the weights; batch norm and dropout, so that statistics and random
# numbers tell whether the trial left anything behind.
OPTIONS = (
    "--cpu --track none --model cnn --model-arg width=16 dropout=0.2 --mixed-precision no --image-size 64 "
    "--limit-val 16 --batch-size 64 --epochs 1 --ema 0.5 --run-name run --output-dir"
).split()

TIMES = "seconds", "images_per_second"


def run(folder: Path, *more: str, processes: int = 1, code: int = 0, **fault: object) -> str:
    folder.mkdir(exist_ok=True)
    few = [] if "--stream" in more else ["--limit-train", "64"]
    codes, printed = train([*OPTIONS, str(folder), *few, *more], processes, Fault(weighed=folder / "weighed", **fault))
    assert codes == [code] * processes, printed
    return printed


def files(folder: Path, step: int = 1) -> dict[str, bytes]:
    """A checkpoint's tensors, by file."""
    return {path.name: path.read_bytes() for path in (folder / f"run/checkpoints/step-{step}").glob("*.safetensors")}


def room_between(tmp_path: Path, fits: int, does_not: int, processes: int = 1) -> int:
    """Bytes that suffice for one number of micro-batches and not for another, for the last process; each is run."""
    most = []
    for accumulate in (fits, does_not):
        run(tmp_path / f"typed-{accumulate}", "--accumulate", str(accumulate), processes=processes)
        most.append(int((tmp_path / f"typed-{accumulate}/weighed.{processes - 1}").read_text()))
    assert most[0] < most[1]
    return sum(most) // 2


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """(a folder with runs of 4 and of 2 micro-batches, the memory that suffices for 4 and not for 2)."""
    folder = tmp_path_factory.mktemp("typed")
    return folder, room_between(folder, 4, 2)


def test_it_is_the_number_that_fits_and_the_run_is_the_one_with_that_number_typed(
    typed: tuple[Path, int], tmp_path: Path
) -> None:
    folder, room = typed
    auto = tmp_path / "auto"
    printed = run(auto, "--accumulate", "auto", memory={0: room})
    assert "--accumulate auto is 4, 16 images at a time: 32 images at a time do not fit\n" in printed
    assert files(auto) == files(folder / "typed-4") and len(files(auto)) == 3
    assert yaml.safe_load((auto / "run/args.yaml").read_text())["accumulate"] == 4
    # At a resume it is known, and stays, with room for more.
    printed = run(auto, "--accumulate", "auto", "--resume", "auto", "--epochs", "2")
    assert "--accumulate auto is" not in printed and "at step 1 of 2" in printed
    assert yaml.safe_load((auto / "run/args.yaml").read_text())["accumulate"] == 4


def test_all_processes_go_by_the_one_that_has_least_room(tmp_path: Path) -> None:
    room = room_between(tmp_path, 2, 1, processes=2)
    printed = run(tmp_path / "auto", "--accumulate", "auto", processes=2, memory={1: room})
    assert "--accumulate auto is 2, 16 images at a time: 32 images at a time do not fit\n" in printed
    assert files(tmp_path / "auto") == files(tmp_path / "typed-2")


@pytest.mark.parametrize("stream", [False, True])
def test_a_step_that_fails_is_taken_back_and_the_run_goes_on_as_one_resumed_there_with_the_number(
    tmp_path: Path, stream: bool
) -> None:
    steps = "--batch-size 16 --checkpoint-every 1 --keep 9 --epochs 2 --limit-val 16 --image-size 16".split()
    if stream:
        (tmp_path / "data").mkdir()
        write_shard(tmp_path / "data" / "train-00000-of-00001.parquet", range(100))
        write_shard(tmp_path / "data" / "test-00000-of-00001.parquet", range(200, 220))
        steps += ["--dataset", str(tmp_path / "data"), "--shuffle-buffer", "16", "--stream"]
    # The fourth step fails after its forward pass, and then, of two micro-batches, in the second.
    printed = run(tmp_path / "auto", *steps, "--accumulate", "auto", no_memory_for=(4, 6))
    assert (
        "out of memory with 16 images at a time: step 3 again, and on with --accumulate 2, 8 images at a time\n"
        in printed
    )
    assert (
        "out of memory with 8 images at a time: step 3 again, and on with --accumulate 4, 4 images at a time\n"
        in printed
    )
    run(tmp_path / "typed", *steps, kill_after=3, code=-9)
    run(tmp_path / "typed", *steps, "--resume", "auto", "--accumulate", "4")
    for step in (3, 4, 8):
        assert files(tmp_path / "auto", step) == files(tmp_path / "typed", step) and len(files(tmp_path / "auto", 8))
    kept = [json.loads((tmp_path / name / "run/train.json").read_text())["epochs"] for name in ("auto", "typed")]
    for of_auto, of_typed in zip(*kept, strict=True):
        assert {**of_auto, **dict.fromkeys(TIMES)} == {**of_typed, **dict.fromkeys(TIMES)}
    assert yaml.safe_load((tmp_path / "auto/run/args.yaml").read_text())["accumulate"] == 4


def test_a_step_that_the_system_has_no_memory_for_is_taken_again_in_smaller_parts(
    typed: tuple[Path, int], tmp_path: Path
) -> None:
    _, room = typed
    more = "--limit-train", "192", "--accumulate", "auto"
    printed = run(tmp_path / "auto", *more, memory={0: room}, memory_from=1)
    assert "--accumulate auto is 1, 64 images at a time\n" in printed
    assert "out of memory with 32 images at a time: step 1 again, and on with --accumulate 4, 16 images" in printed
    assert (tmp_path / "auto/run/checkpoints/step-3").is_dir()


def test_with_several_processes_it_says_with_how_many_to_go_on_and_that_changes_nothing(tmp_path: Path) -> None:
    plain = "--cpu --track none --model mlp --limit-train 64 --batch-size 16 --epochs 1 --checkpoint-every 2".split()
    plain += "--mixed-precision no --run-name run --output-dir".split()
    whole, late = [*plain, str(tmp_path / "whole")], [*plain, str(tmp_path / "late")]
    assert train(whole)[0] == [0]
    no_memory = Fault(fail_in=("step", 3, 1), failure="memory")
    codes, printed = train([*late, "--accumulate", "auto"], 2, no_memory)
    assert codes == [1, 1], printed
    assert "error: process 1: out of memory: try --accumulate 2, then --grad-checkpointing" in printed
    codes, printed = train([*late, "--resume", "auto", "--accumulate", "2"], 2)
    assert codes == [0, 0] and "at step 2 of 4" in printed, printed
    ended = (load_file(tmp_path / name / "run/checkpoints/step-4/model.safetensors") for name in ("whole", "late"))
    for one, other in zip(*(tensors.values() for tensors in ended), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_with_room_enough_it_is_1(tmp_path: Path) -> None:
    small = "--image-size", "8", "--batch-size", "16", "--limit-train", "32"
    assert "--accumulate auto is 1, 16 images at a time\n" in run(tmp_path / "auto", *small, "--accumulate", "auto")
    run(tmp_path / "typed", *small)
    assert files(tmp_path / "auto", 2) == files(tmp_path / "typed", 2)


def test_where_not_one_image_fits_it_says_in_a_line_what_to_try(tmp_path: Path) -> None:
    few = "--batch-size", "2", "--accumulate", "auto"
    printed = run(tmp_path, *few, code=2, memory={0: 20_000_000})
    assert [line for line in printed.splitlines() if line.startswith("error: ")] == [
        "error: out of memory with 1 image at a time (--accumulate 2): try --grad-checkpointing, then a smaller "
        "--image-size"
    ]
    assert not (tmp_path / "run").exists()


def test_a_sharded_model_wants_a_number(tmp_path: Path) -> None:
    printed = run(tmp_path, "--model", "mlp", "--accumulate", "auto", processes=2, code=2, shard=True)
    assert "--accumulate auto does not go with sharding (FSDP): give a number" in printed


@pytest.mark.parametrize(
    "given, device, processes, expected",
    [
        ("", "cpu", 1, "--accumulate auto, then --grad-checkpointing, then a smaller --image-size"),
        ("--accumulate auto", "cpu", 2, "--grad-checkpointing, then a smaller --image-size"),
        (
            "--accumulate auto --grad-checkpointing --mixed-precision no",
            "cuda",
            2,
            "--mixed-precision bf16, then a smaller --image-size, then accelerate_configs/fsdp2.yaml",
        ),
        ("--resume auto --grad-checkpointing", "cuda", 1, "a new run with a smaller --image-size"),
    ],
)
def test_what_to_try_next_leaves_out_what_is_on_already(given: str, device: str, processes: int, expected: str) -> None:
    accelerator = SimpleNamespace(device=torch.device(device), num_processes=processes, is_fsdp2=False)
    assert remedy(parse_train(given.split()), accelerator) == expected
