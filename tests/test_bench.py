"""bench.py compares what it times, says why a variant cannot run, and its --check fails for a slow loop."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

import bench
import models
import train
from benches import forward, learn, transform, variants
from benches.timing import WARM_UP_CALLS, calls_for, interleave, warm_up
from data.augment.batch import Augment
from options.bench import parse_bench

CPU = torch.device("cpu")
TINY = "--cpu --mixed-precision no --model mlp --image-size 8 --channels 1 --batch-sizes 4 --rounds 2"
TINY = [*TINY.split(), "--budget", "100000"]  # a machine may be as slow as it is
MODES = ["eager", "torch.compile", "torch.export", "jit.trace (deprecated)", "jit.script (deprecated)"]


class Unscriptable(nn.Module):
    """A module that torch.jit.script refuses, as it looks its layer up by a name made at run time."""

    def __init__(self, *, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.layer1 = nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return getattr(self, f"layer{1 + 0 * len(images)}")(images.flatten(1))


class Slow(Unscriptable):
    """A module whose pass takes one second of the clock of tests."""

    seconds = 0.0

    def forward(self, images: Tensor) -> Tensor:
        Slow.seconds += 1
        return super().forward(images)


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    """Accelerate's state, the signals and the environment, for the tests that follow."""
    monkeypatch.delenv("SAMELOOP_DATA", raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def run(capsys, tmp_path):
    """run(*options) -> (exit code, standard output, standard error, bench.json or None)."""

    def run_bench(*options: str) -> tuple[int, str, str, dict | None]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            bench.main([*TINY, "--output-dir", str(tmp_path / "out"), *options])
        written = tmp_path / "out" / "bench.json"
        content = json.loads(written.read_text(), parse_constant=pytest.fail) if written.exists() else None
        return ended.value.code or 0, *capsys.readouterr(), content

    return run_bench


@pytest.fixture
def counted(monkeypatch):
    """A clock that only passes of the model "ours" move: what was measured is counted, on any machine."""
    add_model(monkeypatch, Slow)
    monkeypatch.setattr(Slow, "seconds", 0.0)
    for module in ("budget", "timing"):
        monkeypatch.setattr(f"benches.{module}.clock", lambda: Slow.seconds)


def add_model(monkeypatch, model):
    monkeypatch.setitem(models.MODELS, "ours", (__name__, model.__name__, ""))


def rows_of(content):
    return {row["variant"]: row for section in content["benches"] for row in section["rows"]}


@pytest.mark.parametrize("what", ["forward", "train"])
def test_every_way_to_run_a_model_gives_the_eager_results(run, tmp_path, what):
    code, out, _, content = run("--what", what)
    assert code == 0
    (section,) = content["benches"]
    assert (section["what"], section["batch_size"]) == (what, 4)
    rows = rows_of(content)
    formats = [f"{precision}, {layout}" for precision in ("fp32", "bf16") for layout in ("channels_last", "contiguous")]
    modes = {f"{mode}, fp32, channels_last" for mode in MODES} | {f"eager, {text}" for text in formats}
    own = rows.pop("eager, PyTorch's own layers, fp32, channels_last", {"reason_not_run": "only layers of training"})
    assert own["reason_not_run"] and ("none but PyTorch's own" in own["reason_not_run"]) == (what == "train")
    graphs = rows.pop("CUDA graphs, fp32, channels_last")
    assert graphs["reason_not_run"] == "CUDA graphs need a CUDA GPU"
    assert set(rows) == modes
    for name, row in rows.items():
        if "fp32" in name:
            assert row["reason_not_run"] is None
            assert row["images_per_second"]["lowest"] <= row["images_per_second"]["median"]
            assert len(row["seconds"]) == 2
        if "fp32" in name and name != "eager, fp32, channels_last":
            assert row["difference"] < 1e-5
        assert name in out
    assert {"packages", "cpu", "device"} <= set(content["environment"])
    assert content["peak_rss_bytes"] > 10**7
    assert (tmp_path / "out" / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_our_layers_are_timed_beside_pytorchs_own_whose_gradients_they_have(run, monkeypatch):
    modes = {name: variants.MODES[name] for name in ("eager", variants.OWN_LAYERS)}
    monkeypatch.setattr(forward, "MODES", modes)
    net = "--model cnn --model-arg width=128 --batch-sizes 64".split()
    own = rows_of(run("--what", "train", *net)[3])["eager, PyTorch's own layers, fp32, channels_last"]
    assert 0 < own["difference"] < 1e-2  # max-pooling may take another of two that are nearly equal
    assert own["reason_not_run"] is None


def test_a_step_of_resnet18_is_checked_against_one_without_our_layers(run):
    code, out, _, content = run("--check", "--what", "layers", "--image-size", "32", "--rounds", "1")
    (section,) = content["benches"]
    assert [row["variant"] for row in section["rows"]] == ["eager, PyTorch's own layers", "eager"]
    assert 0 < section["rows"][1]["difference"] < 1e-5
    assert code == (section["ratio"]["median"] < 1.5) and "check    layers: ratio " in out


def test_bf16_differs_from_fp32_by_its_rounding(run, monkeypatch):
    monkeypatch.setattr(forward, "MODES", {"eager": variants.MODES["eager"]})
    row = rows_of(run("--what", "forward", "--mixed-precision", "bf16")[3])["eager, fp32, channels_last"]
    assert 1e-5 < row["difference"] < 0.1


def test_bf16_that_does_not_pay_on_the_hardware_is_not_waited_for(run, monkeypatch):
    monkeypatch.setattr(forward, "MODES", {"eager": variants.MODES["eager"]})
    monkeypatch.setattr("engine.runtime.hardware.bf16_pays", lambda device: False)
    code, out, _, _ = run("--what", "forward")
    assert code == 0
    assert out.count("not run: bf16 is slower than fp32 on this hardware") == 2


@pytest.mark.parametrize("mode", MODES[2:])  # the compiled one takes long and still is its model
def test_every_way_to_train_a_model_updates_the_same_weights_by_muon(mode):
    options = replace(parse_bench(TINY), optimizer="muon")
    step, _ = forward.prepare("train", forward.Variant(mode, "no", True), options, CPU, 4)
    (optimizer,) = (cell.cell_contents for cell in step.__closure__ if hasattr(cell.cell_contents, "param_groups"))
    assert [len(group["params"]) for group in optimizer.param_groups if group["orthogonal"]] == [2]


def test_a_model_that_cannot_be_scripted_is_a_line_with_the_reason(run, monkeypatch):
    add_model(monkeypatch, Unscriptable)
    monkeypatch.setattr(forward, "MODES", {name: variants.MODES[name] for name in (MODES[0], MODES[4])})
    code, out, _, content = run("--what", "forward", "train", "--model", "ours")
    assert code == 0
    assert out.count("jit.script (deprecated), fp32, channels_last  not run: ") == 2
    row = rows_of(content)["jit.script (deprecated), fp32, channels_last"]
    assert "getattr" in row["reason_not_run"]
    assert "\n" not in row["reason_not_run"]
    assert "images_per_second" not in row


@pytest.mark.filterwarnings("ignore:dynamo_pgo")
def test_without_a_compiler_the_line_says_so(run, monkeypatch):
    import torch._inductor.config

    monkeypatch.setattr(forward, "MODES", {name: variants.MODES[name] for name in MODES[:2]})
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}):
        code, out, _, _ = run("--what", "forward")
    assert code == 0
    assert "torch.compile, fp32, channels_last  not run: torch.compile needs a C++ compiler" in out


def test_the_loop_that_is_timed_is_the_one_of_train_py(run, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    steps, taken = train.steps, []

    def counted_steps(run):
        for _ in steps(run):
            taken.append(run.state.step)
            yield

    monkeypatch.setattr(train, "steps", counted_steps)
    code, out, _, content = run("--what", "loop")
    assert code == 0
    (section,) = content["benches"]
    calls = section["rows"][1]["calls_per_round"]
    assert section["rows"][0]["calls_per_round"] == calls
    assert taken == list(range(1, WARM_UP_CALLS + 2 * calls + 1))
    assert f"ratio {section['ratio']['median']:.3f}" in out
    milliseconds = section["milliseconds_of_a_step"]
    assert milliseconds["data: augment, normalise"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "the run's folder is gone"


def test_a_recipe_is_timed_with_its_own_options_unless_others_are_typed():
    recipe = parse_bench(["--recipe", "mnist_99"])
    assert (recipe.model, recipe.model_arg, recipe.batch_sizes) == ("whitened_cnn", {"width": 32}, [500])
    assert (recipe.optimizer, recipe.lr, recipe.augment, recipe.train_sizes) == ("muon", 0.12, "crop=2", None)
    typed = parse_bench(["--recipe", "mnist_99", "--model-arg", "width=8", "--batch-sizes", "4", "--augment", "flip"])
    assert (typed.model, typed.model_arg, typed.batch_sizes) == ("whitened_cnn", {"width": 8}, [4])
    assert (typed.optimizer, typed.augment) == ("muon", "flip")


def test_a_recipe_is_timed_as_it_is_trained_but_for_micro_batches_and_frozen_layers(run, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("accumulate: 4\nfreeze: head\nbatch-size: 64\nmodel: mlp\n")
    args = parse_bench(["--recipe", str(mine)])
    assert (args.accumulate, args.freeze, args.batch_sizes) == (1, "none", [16])
    mine.write_text("task: transform\ntransform: vflip\naugment: none\n")
    tiny = "--model separable_map --what loop train --rounds 1"
    code, out, err, content = run("--recipe", str(mine), *tiny.split())
    assert code == 0, err
    assert "only batches of spatial targets" not in out
    assert "images_per_second" in rows_of(content)["eager, fp32, channels_last"]


def test_data_gives_what_torchvision_gives(run):
    code, _, _, content = run("--what", "data", "--channels", "3")
    assert code == 0
    plain, augmented = content["benches"]
    assert plain["rows"][1]["difference"] < 1e-6
    assert [row["variant"] for row in augmented["rows"]] == [row["variant"] for row in plain["rows"]]


def test_photos_are_decoded_by_three_ways_and_no_cache_is_left(run, own_cache):
    code, _, _, content = run("--what", "decode")
    (section,) = content["benches"]
    assert code == 0
    names = [row["variant"] for row in section["rows"]]
    assert names == ["torchvision's ImageFolder", "timm's dataset", "ours, --decode live"]
    assert all(row["images_per_second"]["median"] > 0 for row in section["rows"])
    assert not own_cache.exists()


def test_photos_are_predicted_by_three_ways(run, own_cache, monkeypatch):
    monkeypatch.setattr("benches.infer.PHOTOS", 4)
    monkeypatch.setattr("benches.infer.BATCH_SIZE", 2)
    monkeypatch.setattr("tasks.inference.FEW", 4)
    code, out, _, content = run("--check", "--what", "infer", "--rounds", "1")
    (section,) = content["benches"]
    names = [row["variant"] for row in section["rows"]]
    assert names == ["timm's loader and model", "infer.py --exact", "infer.py"]
    assert 0 < section["rows"][2]["difference"] < 1e-5
    assert code == (section["ratio"]["median"] < 1.5) and "check    infer: ratio " in out


def test_the_convolution_by_hand_gives_what_the_native_gives(run):
    code, out, _, content = run("--what", "conv")
    assert code == 0
    assert len(content["benches"]) == 3  # the layers of byhand_cnn
    for section in content["benches"]:
        _, by_hand = section["rows"]
        assert by_hand["difference"] < 1e-5
        assert f"by hand takes {section['seconds_over_native']:.2f} times as long" in out


def test_every_line_of_transform_says_how_many_pixels_are_right(run, monkeypatch):
    def refuse(model, inputs):
        raise variants.Refused("no compiler here")

    monkeypatch.setattr("engine.runtime.hardware.bf16_pays", lambda device: True)
    monkeypatch.setattr(transform, "MODES", transform.MODES | {"torch.compile": refuse})
    monkeypatch.setattr(learn, "MODELS", (("separable_map", {}, 0.03, 1500), ("conv_translator", {}, 0.002, 5)))
    code, out, _, content = run("--what", "transform", "--channels", "3", "--batch-sizes", "300")
    assert code == 0
    rows = rows_of(content)
    assert out.count("not run: no compiler here") == 2
    timed = {name: row for name, row in rows.items() if row["reason_not_run"] is None}
    accuracies = [row["accuracy"][f"within_{near}"] for row in timed.values() for near in (0.05, 0.01)]
    assert all(f"{100 * accuracy:.3f} %" in out for accuracy in accuracies)
    for name, row in timed.items():
        wrong = "conv_translator" in name
        assert (row["accuracy"]["within_0.05"] < 0.9) if wrong else (row["accuracy"]["within_0.05"] > 0.9999), name
        assert wrong or row["accuracy"]["within_0.01"] > 0.99, name
        assert row["images_per_call"] == (1000 if "one by one" in name or "by 1000" in name else 900)
    assert {name.split(",")[0] for name in rows if "torchvision" in name} == {
        "torchvision one by one",
        "torchvision by 300",
        "torchvision by 1000",
    }
    first, second = content["benches"][0]["rows"][:2]
    assert "one by one" in first["variant"]
    assert second["images_per_second"]["median"] <= first["images_per_second"]["median"]


def test_a_model_that_makes_wrong_pixels_is_never_called_fast(run, monkeypatch):
    monkeypatch.setattr(transform, "MODES", {"eager": variants.MODES["eager"]})
    monkeypatch.setattr(learn, "MODELS", (("separable_map", {}, 0.03, 1),))
    code, out, _, content = run("--what", "transform")
    assert code == 0
    assert all(f"no model in {precision} has 99.99 % of pixels within 0.05" in out for precision in ("fp32", "bf16"))
    assert "seconds_over_whole_batches" not in content["benches"][0]


def test_weights_that_name_classes_are_refused(run, tmp_path, best):
    code, out, err, _ = run("--weights", str(best))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"error: --weights {best}: they name classes" in err
    assert not list(tmp_path.iterdir())


def test_check_fails_for_a_loop_that_augments_more_than_it_trains(run, counted, monkeypatch):
    augment = Augment.__call__

    def slowly(*args, **options):
        Slow.seconds += 1
        return augment(*args, **options)

    monkeypatch.setattr(Augment, "__call__", slowly)
    code, out, _, content = run("--check", "--model", "ours")
    assert code == 1
    assert [section["what"] for section in content["benches"]] == ["loop", "beside"]
    assert [section["ratio"]["median"] for section in content["benches"]] == [0.5, 1]
    assert "NOT reached" in out


def test_check_passes_where_the_model_takes_the_time(run, counted):
    code, out, _, content = run("--check", "--what", "loop", "--model", "ours", "--rounds", "1")
    assert (code, content["benches"][0]["ratio"]["median"]) == (0, 1), out


@pytest.mark.parametrize(("budget", "rounds", "least"), [(1000, 5, 0), (100, 3, 80), (10, 1, 0)])
def test_a_budget_is_divided_among_the_benches_and_what_does_not_fit_is_said(
    run, counted, monkeypatch, budget, rounds, least
):
    """100 seconds are too few for 5 rounds, and 10 for some variants and for the last bench."""
    monkeypatch.setattr(forward, "MODES", {"eager": variants.MODES["eager"]})
    monkeypatch.setattr("engine.runtime.hardware.bf16_pays", lambda device: True)
    options = f"--what forward train loop --model ours --rounds 5 --budget {budget}"
    code, out, _, content = run(*options.split())
    assert code == 0
    assert least <= Slow.seconds <= budget + 9  # what has begun ends: at most a variant, which is built and warmed up
    timed = [len(row["seconds"]) for section in content["benches"] for row in section["rows"] if "seconds" in row]
    assert min(timed) == rounds
    assert (f"{rounds} of 5 rounds: a larger --budget" in out) == (rounds < 5)
    assert ("not run: no time was left for it; a larger --budget has some" in out) == (budget == 10)
    assert [section["what"] for section in content["benches"]] == ["forward", "train", "loop"][
        : 2 if budget == 10 else 3
    ]
    assert ("loop: left out, as --budget 10 is spent" in out) == (budget == 10)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--what cone", "invalid choice: 'cone'"),
        ("--recipe none", "the recipes are: "),
        ("--rounds 0", "0 is out of range"),
        ("--budget 0", "0 is out of range"),
        ("--batch-sizes 8 -1", "-1 is out of range"),
        ("--model nmlp", "unknown model 'nmlp'"),
        ("--channels 2", "invalid choice"),
        ("--augment zoom", "no augmentation is called 'zoom'"),
        ("--augment crop=8", "reflects 8 pixels"),
        ("--model cnn --image-size 4 --augment none", "cnn does not work on 4x4 images"),
        ("--what data conv --model mlp --image-size 4 --augment none", "conv: byhand_cnn needs images of at least 8"),
        ("--check --what data", "--check is for loop, beside, layers, infer"),
        ("--what layers --model timm/vit_tiny_patch16_224 --image-size 32", "has none but PyTorch's own layers"),
        ("--weights a.pth --what loop", "--weights is for transform alone"),
        ("--weights none.pth", "give a run's best.pth"),
        ("--mixed-precision fp16", "fp16 does nothing on a CPU"),
        ("--output-dir /dev/null/out", "cannot write in"),
    ],
)
def test_bad_options_are_one_line_and_nothing_is_written(run, tmp_path, options, says):
    code, out, err, _ = run(*options.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ") and says in err
    assert not list(Path(tmp_path).iterdir())


def test_rounds_are_interleaved_and_warmed_up_apart():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    for call in calls.values():
        warm_up(call, CPU)
    assert order == ["a"] * WARM_UP_CALLS + ["b"] * WARM_UP_CALLS
    order.clear()
    timings = interleave({name: (call, 2) for name, call in calls.items()}, 3, CPU)
    assert "".join(order) == "aabbbbaaaabb"
    assert all(len(timing.seconds) == 3 and timing.calls == 2 for timing in timings.values())


def test_a_round_has_as_many_calls_as_fill_it():
    assert [calls_for(seconds, 1.0) for seconds in (0.0, 0.1, 0.3, 5.0)] == [50, 10, 3, 1]
