"""The peers, each in its own best plain setting on a CPU: what a person who knows its options would type.

Augmentation is each one's own random crop and flip; what else it does by default (colour jitter, RandAugment, erasing)
is switched off, which favours it in images/s. Two workers where there is such an option.
"""

import json

from benches.peers.jobs import Job
from benches.peers.peer import Peer, Setting
from benches.peers.process import Reading

# Of the networks of a job, by timm's names.
TORCHVISION = {"resnet18": "resnet18", "mobilenetv2_100": "mobilenet_v2"}
CHANNELS = {"resnet18": 512, "mobilenetv2_100": 1280}  # before the head
WORKERS = 2


def _timm(job: Job) -> str:
    return job.network or "resnet10t"  # of timm's the one that comes furthest in five minutes on two cores


def _timm_expression(job: Job) -> str:
    return f"timm.create_model({_timm(job)!r}, num_classes=10)"


def _torchvision(job: Job) -> str:
    return TORCHVISION[_timm(job)]


def _torchvision_expression(job: Job) -> str:
    return f"torchvision.models.{_torchvision(job)}(num_classes=10)"


# Sameloop

# Recipe cifar10_94, narrower, and validated after each epoch.
MINUTES = (
    "--model whitened_cnn --model-arg width=24 --batch-size 1000 --train-sizes 20=0.4,24=0.4,32=0.2 "
    "--augment altflip,crop=2 --optimizer muon --lr 0.24 --schedule linear --warmup 0 --label-smoothing 0.2"
).split()


def _sameloop(setting: Setting) -> list[str]:
    job = setting.job
    arguments = [setting.script, "--cpu", "--dataset", str(setting.layout.tree), "--epochs", str(setting.epochs)]
    if job.network is None:
        return [*arguments, *MINUTES, "--track", "none"]
    arguments += ["--model", f"timm/{job.network}", "--batch-size", str(job.batch_size), "--track", "none"]
    if job.stored is None:
        return [*arguments, "--augment", "crop,flip"]
    arguments += ["--image-size", str(job.size)]
    if setting.weights:
        arguments += ["--pretrained", setting.weights, "--model-arg", "pad_type=same", "--mean", "0.5", "--std", "0.5"]
    return arguments


def _sameloop_expression(job: Job) -> str:
    if job.network is not None:
        return _timm_expression(job)
    module = "__import__('models.whitened_cnn').whitened_cnn"
    return f"{module}.WhitenedCNN(input_shape=(3, {job.size}, {job.size}), num_classes=10, width=24)"


def _sameloop_kept(setting: Setting) -> list[str]:
    return [*_sameloop(setting), *(["--augment", "crop=16,flip"] if setting.job.stored else [])]


def _sameloop_live(setting: Setting) -> list[str]:
    return [*_sameloop(setting), "--augment", "rrc,flip", "--decode", "live", "--workers", str(WORKERS)]


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
    network=_timm_expression,
    environment=SAMELOOP.environment,
    starts_from_weights=True,
    jobs=("photos",),
    setting="--decode live --augment rrc,flip: JPEGs decoded at every step, as its peers do",
)

# timm


def _timm_arguments(setting: Setting) -> list[str]:
    job = setting.job
    rate = "0.005" if setting.weights else "0.05"
    arguments = [
        *(setting.script, "--data-dir", str(setting.layout.tree), "--model", _timm(job), "--num-classes", "10"),
        *("--input-size", "3", str(job.size), str(job.size), "--batch-size", str(job.batch_size)),
        *("--epochs", str(setting.epochs), "--warmup-epochs", "0", "--lr", rate, "--workers", str(WORKERS)),
        *("--device", "cpu", "--color-jitter", "0", "--log-interval", "10000", "--output", "output"),
    ]
    if job.size == 32:
        arguments += ["--scale", "0.5", "1", "--crop-pct", "1"]
    if setting.weights:
        arguments += [
            "--pretrained",
            "--pretrained-path",
            setting.weights,
            "--mean",
            *["0.5"] * 3,
            "--std",
            *["0.5"] * 3,
        ]
        arguments += ["--model-kwargs", "pad_type=same"]
    return [*arguments, *(["--amp", "--amp-dtype", "bfloat16"] if setting.bf16 else [])]


TIMM = Peer(
    name="timm",
    module="timm",
    script="train.py of huggingface/pytorch-image-models",
    reading=Reading(r"Test: \[\s*(\d+)/\1\].*Acc@1:\s*[\d.]+ \(\s*(?P<accuracy>[\d.]+)\)", percent=True),
    arguments=_timm_arguments,
    network=_timm_expression,
    starts_from_weights=True,
    setting="random resized crop, flip; SGD; no colour jitter",
)

# Accelerate's example


def _accelerate_arguments(setting: Setting) -> list[str]:
    precision = ["--mixed_precision", "bf16"] if setting.bf16 else []
    return [setting.script, "--data_dir", str(setting.layout.flat), "--cpu", *precision]


def _accelerate_edits(setting: Setting) -> dict[str, str]:
    job = setting.job
    weights, rate = "pretrained=False", "3e-3"
    if setting.weights:
        rate = "5e-4"
        overlay = f"dict(file={setting.weights!r}, mean=(0.5,) * 3, std=(0.5,) * 3)"
        weights = f"pretrained=True, pretrained_cfg_overlay={overlay}, pad_type='same'"
    return {
        '"lr": 3e-2, "num_epochs": 3': f'"lr": {rate}, "num_epochs": {setting.epochs}',
        '"batch_size": 64, "image_size": 224': f'"batch_size": {job.batch_size}, "image_size": {job.size}',
        'create_model("resnet50d", pretrained=True': f"create_model({_timm(job)!r}, {weights}",
        "param.requires_grad = False": "param.requires_grad = True",
        "num_workers=4": f"num_workers={WORKERS}",
    }


ACCELERATE = Peer(
    name="accelerate",
    module="accelerate",
    script="examples/complete_cv_example.py of huggingface/accelerate",
    reading=Reading(r"^epoch \d+: (?P<accuracy>[\d.]+)$", percent=True),
    arguments=_accelerate_arguments,
    edits=_accelerate_edits,
    network=lambda job: "__import__('timm')" + _timm_expression(job).removeprefix("timm"),
    starts_from_weights=True,
    setting="random resized crop; Adam, one cycle; validates on a fifth of its own choice; all layers trained",
)

# torchvision's reference


def _torchvision_arguments(setting: Setting) -> list[str]:
    job, size = setting.job, str(setting.job.size)
    return [
        *(setting.script, "--data-path", str(setting.layout.tree), "--model", _torchvision(job), "--device", "cpu"),
        *("--batch-size", str(job.batch_size), "--epochs", str(setting.epochs), "--workers", str(WORKERS)),
        *("--lr", "0.05", "--lr-scheduler", "cosineannealinglr", "--train-crop-size", size, "--val-crop-size", size),
        *("--val-resize-size", size, "--print-freq", "10000", "--output-dir", "output"),
    ]


TORCHVISION_REFERENCE = Peer(
    name="torchvision",
    module="torchvision",
    script="references/classification/train.py of pytorch/vision",
    reading=Reading(r"^Test:\s+Acc@1 (?P<accuracy>[\d.]+)", percent=True),
    arguments=_torchvision_arguments,
    network=_torchvision_expression,
    jobs=("cifar", "photos"),
    setting="random resized crop, flip; SGD, cosine; has mixed precision for CUDA alone",
)

# transformers' example

RESNET = (
    "ResNetConfig(embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type='basic', "
    "num_labels=10)"
)


def _transformers_expression(job: Job) -> str:
    if _timm(job) == "resnet18":
        return f"transformers.ResNetForImageClassification(transformers.{RESNET})"
    return "transformers.MobileNetV2ForImageClassification(transformers.MobileNetV2Config(num_labels=10))"


def _transformers_prepare(setting: Setting) -> str:
    size = {"height": setting.job.size, "width": setting.job.size}
    processor = {"image_processor_type": "ViTImageProcessor", "size": size} | {
        key: [0.5] * 3 for key in ("image_mean", "image_std")
    }
    return (
        f"import transformers\n{_transformers_expression(setting.job)}.save_pretrained('model')\n"
        f"open('model/preprocessor_config.json', 'w').write({json.dumps(processor)!r})"
    )


def _transformers_arguments(setting: Setting) -> list[str]:
    tree, batch_size = setting.layout.tree, str(setting.job.batch_size)
    return [
        *(setting.script, "--model_name_or_path", "model", "--output_dir", "output", "--do_train", "--do_eval"),
        *("--train_dir", str(tree / "train"), "--validation_dir", str(tree / "val"), "--use_cpu"),
        *("--per_device_train_batch_size", batch_size, "--per_device_eval_batch_size", batch_size),
        *("--num_train_epochs", str(setting.epochs), "--learning_rate", "2e-3", "--remove_unused_columns", "False"),
        *("--dataloader_num_workers", str(WORKERS), "--eval_strategy", "epoch", "--save_strategy", "no"),
        *("--report_to", "none", "--logging_strategy", "epoch"),
        *(["--bf16"] if setting.bf16 else []),
    ]


TRANSFORMERS = Peer(
    name="transformers",
    module="transformers",
    script="examples/pytorch/image-classification/run_image_classification.py of huggingface/transformers",
    reading=Reading(r"'eval_accuracy': '?(?P<accuracy>[\d.]+)", percent=False),
    arguments=_transformers_arguments,
    prepare=_transformers_prepare,
    network=_transformers_expression,
    environment={"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": "cache"},
    jobs=("cifar", "photos"),
    setting="random resized crop, flip; AdamW",
)

# Ultralytics


def _ultralytics_layers(job: Job) -> dict:
    """A file of Ultralytics' that names torchvision's network."""
    network = [CHANNELS[_timm(job)], _torchvision(job), None, True, 2 if _timm(job) == "resnet18" else 1]
    return {"nc": 10, "backbone": [[-1, 1, "TorchVision", network]], "head": [[-1, 1, "Classify", [10]]]}


def _ultralytics_arguments(setting: Setting) -> list[str]:
    job = setting.job
    options = {
        "model": "network.yaml",
        "data": setting.layout.tree,
        "imgsz": job.size,
        "batch": job.batch_size,
        "epochs": setting.epochs,
        "workers": WORKERS,
        "device": "cpu",
        "cache": True,
        "pretrained": False,
        "auto_augment": None,
        "erasing": 0,
        "plots": False,
        "project": setting.folder.absolute(),
    }
    start = "from ultralytics.cfg import entrypoint; entrypoint()"
    return ["-c", start, "classify", "train", *(f"{name}={value}" for name, value in options.items())]


ULTRALYTICS = Peer(
    name="ultralytics",
    module="ultralytics",
    reading=Reading(r"^\s+all\s+(?P<accuracy>[\d.]+)\s+[\d.]+\s*$", percent=False),
    arguments=_ultralytics_arguments,
    prepare=lambda setting: f"open('network.yaml', 'w').write({json.dumps(_ultralytics_layers(setting.job))!r})",
    network=lambda job: (
        f"__import__('ultralytics.nn.tasks').nn.tasks.ClassificationModel({_ultralytics_layers(job)!r}, verbose=False)"
    ),
    environment={"YOLO_CONFIG_DIR": ".", "YOLO_OFFLINE": "true"},
    jobs=("cifar", "photos"),
    setting=(
        "yolo classify train with torchvision's network below its own head; images cached in memory; random resized "
        "crop, flip, no RandAugment, no erasing"
    ),
)

# pytorch-cifar


def _pytorch_cifar_edits(setting: Setting) -> dict[str, str]:
    job = setting.job
    return {
        "net = SimpleDLA()": f"net = {_torchvision_expression(job) if job.network else 'LeNet()'}",
        "root='./data'": f"root={str(setting.layout.cifar)!r}",
        "import torchvision.transforms as transforms": (
            "import torchvision.transforms as transforms\ntorchvision.datasets.cifar.check_integrity = lambda *_: True"
        ),
        "batch_size=128": f"batch_size={job.batch_size}",
        "T_max=200": f"T_max={setting.epochs}",
    }


PYTORCH_CIFAR = Peer(
    name="pytorch-cifar",
    module="torchvision",
    script="main.py of kuangliu/pytorch-cifar",
    reading=Reading(r"Acc: (?P<accuracy>[\d.]+)% \(\d+/{val}\)\D*(\d+)/\2\s*$", percent=True),
    arguments=lambda setting: [setting.script, *([] if setting.job.network else ["--lr", "0.01"])],
    edits=_pytorch_cifar_edits,
    network=lambda job: _torchvision_expression(job) if job.network else "__import__('models').LeNet()",
    terminal=True,
    jobs=("cifar", "minutes"),
    setting="CIFAR-10's own files, in memory; shifted by up to 4 pixels, flipped; SGD, cosine; has no mixed precision",
)

# airbench

AIRBENCH = Peer(
    name="airbench",
    module="torch",
    script="airbench94_muon.py of KellerJordan/cifar10-airbench",
    reading=Reading(r"(?P<accuracy>0\.\d+)", percent=False),
    arguments=lambda setting: [setting.script],
    network=_timm_expression,
    jobs=("minutes",),
    unfit="it computes on CUDA alone; recipe cifar10_94 is its network here",
)

PEERS = {
    peer.name: peer
    for peer in (
        *(SAMELOOP, SAMELOOP_LIVE, TIMM, ACCELERATE, TRANSFORMERS, TORCHVISION_REFERENCE, ULTRALYTICS),
        *(PYTORCH_CIFAR, AIRBENCH),
    )
}
