"""What a device can compute in."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def widest_float(device: "torch.device") -> "torch.dtype":
    """float64, or float32 where the device has none: Apple's, and Intel's Arc."""
    import torch  # which takes seconds, and this module is imported before there is need of it

    if device.type == "xpu" and not torch.xpu.get_device_properties(device).has_fp64:
        return torch.float32
    return torch.float32 if device.type == "mps" else torch.float64
