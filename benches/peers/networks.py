"""The network of a job, as timm and torchvision name it and make it."""

from benches.peers.jobs import Job

# Of the networks of a job, by timm's names.
TORCHVISION = {"resnet18": "resnet18", "mobilenetv2_100": "mobilenet_v2"}
CHANNELS = {"resnet18": 512, "mobilenetv2_100": 1280}  # before the head


def timm_name(job: Job) -> str:
    """Of the job's network, or of the one that suits timm."""
    return job.network or "resnet10t"  # one of its smallest


def timm_expression(job: Job) -> str:
    """The Python that makes it, for ten classes."""
    return f"timm.create_model({timm_name(job)!r}, num_classes=10)"


def torchvision_name(job: Job) -> str:
    """The same network by torchvision's name."""
    return TORCHVISION[timm_name(job)]


def torchvision_expression(job: Job) -> str:
    """The Python that makes that, for ten classes."""
    return f"torchvision.models.{torchvision_name(job)}(num_classes=10)"
