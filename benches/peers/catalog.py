"""The peers, each in its own best plain setting on a CPU: what a person who knows its options would type.

Augmentation is each one's own random crop and flip; what else it does by default (colour jitter, RandAugment, erasing)
is switched off, which favours it in images/s. Two workers where there is such an option.
"""

import json

from benches.peers.jobs import Job
from benches.peers.networks import CHANNELS, timm_expression, timm_name, torchvision_expression, torchvision_name
from benches.peers.ours import SAMELOOP, SAMELOOP_LIVE
from benches.peers.peer import Peer, Setting
from benches.peers.process import Reading

WORKERS = 2

# timm


def _timm_arguments(setting: Setting) -> list[str]:
    job = setting.job
    rate = "0.005" if setting.weights else "0.05"
    arguments = [
        *(setting.script, "--data-dir", str(setting.layout.tree), "--model", timm_name(job), "--num-classes", "10"),
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
    network=timm_expression,
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
        'create_model("resnet50d", pretrained=True': f"create_model({timm_name(job)!r}, {weights}",
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
    network=lambda job: "__import__('timm')" + timm_expression(job).removeprefix("timm"),
    starts_from_weights=True,
    setting="random resized crop; Adam, one cycle; validates on a fifth of its own choice; all layers trained",
)

# torchvision's reference


def _torchvision_arguments(setting: Setting) -> list[str]:
    job, size = setting.job, str(setting.job.size)
    return [
        *(setting.script, "--data-path", str(setting.layout.tree), "--model", torchvision_name(job), "--device", "cpu"),
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
    network=torchvision_expression,
    jobs=("cifar", "photos"),
    setting="random resized crop, flip; SGD, cosine; has mixed precision for CUDA alone",
)

# transformers' example

RESNET = (
    "ResNetConfig(embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type='basic', "
    "num_labels=10)"
)


def _transformers_expression(job: Job) -> str:
    if timm_name(job) == "resnet18":
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
    network = [CHANNELS[timm_name(job)], torchvision_name(job), None, True, 2 if timm_name(job) == "resnet18" else 1]
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
        "net = SimpleDLA()": f"net = {torchvision_expression(job) if job.network else 'LeNet()'}",
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
    network=lambda job: torchvision_expression(job) if job.network else "__import__('models').LeNet()",
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
    network=timm_expression,
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
