"""train.py as a peer of the others."""

from benches.peers.jobs import Job
from benches.peers.networks import timm_expression
from benches.peers.peer import Peer, Setting
from benches.peers.process import Reading

# Recipe cifar10_94, narrower: of widths 16, 24 and 32 with as many epochs as fit, 24 came furthest in five minutes on
# two slow cores; three times as long is enough for 40.
WIDTH, WIDTH_FROM_LONG = 24, 40
LONG = 600  # seconds
MINUTES = (
    "--model whitened_cnn --batch-size 1000 --train-sizes 20=0.4,24=0.4,32=0.2 "
    "--augment altflip,crop=2 --optimizer muon --lr 0.24 --schedule linear --warmup 0 --label-smoothing 0.2"
).split()


def _width(job: Job) -> int:
    return WIDTH if (job.seconds or 0) < LONG else WIDTH_FROM_LONG


def _sameloop(setting: Setting) -> list[str]:
    job = setting.job
    arguments = [setting.script, "--cpu", "--dataset", str(setting.layout.tree), "--epochs", str(setting.epochs)]
    if job.network is None:
        rarely = ["--eval-every", str(max(1, setting.epochs // 3))]
        return [*arguments, *MINUTES, "--model-arg", f"width={_width(job)}", *rarely, "--track", "none"]
    arguments += ["--model", f"timm/{job.network}", "--batch-size", str(job.batch_size), "--track", "none"]
    if job.stored is None:
        return [*arguments, "--augment", "crop,flip"]
    arguments += ["--image-size", str(job.size)]
    if setting.weights:
        arguments += ["--pretrained", setting.weights, "--model-arg", "pad_type=same", "--mean", "0.5", "--std", "0.5"]
    return arguments


def _sameloop_expression(job: Job) -> str:
    if job.network is not None:
        return timm_expression(job)
    module = "__import__('models.whitened_cnn').whitened_cnn"
    return f"{module}.WhitenedCNN(input_shape=(3, {job.size}, {job.size}), num_classes=10, width={_width(job)})"


def _sameloop_kept(setting: Setting) -> list[str]:
    return [*_sameloop(setting), *(["--augment", "crop=16,flip"] if setting.job.stored else [])]


def _sameloop_live(setting: Setting) -> list[str]:
    return [*_sameloop(setting), "--augment", "rrc,flip", "--decode", "live", "--workers", "2"]


SAMELOOP = Peer(
    name="sameloop",
    module="timm",
    reading=Reading(r"^(?:\s*\d+/\d+(?:\s+\S+){4}|test accuracy)\s+(?P<accuracy>[\d.]+) %", percent=True),
    arguments=_sameloop_kept,
    network=_sameloop_expression,
    environment={"XDG_CACHE_HOME": "cache", "HF_HOME": ""},
    starts_from_weights=True,
    setting="images decoded once, when it starts (part of its seconds); shifted by up to 4 pixels (16 of 224), flipped",
)
SAMELOOP_LIVE = Peer(
    name="sameloop-live",
    module="timm",
    reading=SAMELOOP.reading,
    arguments=_sameloop_live,
    network=timm_expression,
    environment=SAMELOOP.environment,
    starts_from_weights=True,
    jobs=("photos",),
    setting="--decode live --augment rrc,flip: JPEGs decoded at every step, as its peers do",
)
