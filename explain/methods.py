"""The maps themselves, by the packages grad-cam and captum: which pixels speak for a class."""

import contextlib
import importlib.util
import io

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from explain.layers import Layer
from options.infer import OF_PIXELS

STEPS = 50  # of the path of the integrated gradients
AT_ONCE = 64  # images that go through the model together


def check_installed(methods: list[str]) -> None:
    """Raise UserError when a package that the methods need is missing; grad-cam measures all of them."""
    needed = {"pytorch_grad_cam": "grad-cam"}
    needed |= {"captum": "captum"} if set(methods) & set(OF_PIXELS) else {}
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(f"--explain {','.join(methods)}: not installed; run 'pip install {' '.join(missing)}'")


def compute_maps(method: str, model: nn.Module, layer: Layer | None, inputs: Tensor, labels: list[int]) -> np.ndarray:
    """For each image how much each pixel speaks for a class: float32 (B, h, w), larger is more.

    Class activation maps lie in 0..1; in the others what speaks against the class is negative. The class's logit is
    what is explained.

    Args:
        method: one of METHODS.
        model: in evaluation mode, float32.
        layer: from `find_layer`; of no use to the methods OF_PIXELS.
        inputs: float32 (B, C, h, w), normalised; 0, the mean colour of the training images, stands for nothing there.
        labels: the class to explain in each image.
    """
    if method == "integrated-gradients":
        return integrated_gradients(model, inputs, labels).sum(1).cpu().numpy()
    if method == "occlusion":
        return _occlusion(model, inputs, labels)
    if method == "scorecam":  # one by one: it lays each of the layer's channels over the image, all at once
        each = [_cam(method, model, layer, inputs[i : i + 1], labels[i : i + 1]) for i in range(len(inputs))]
        return np.concatenate(each)
    return _cam(method, model, layer, inputs, labels)


def _cam(method: str, model: nn.Module, layer: Layer, inputs: Tensor, labels: list[int]) -> np.ndarray:
    from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, ScoreCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    kinds = {"gradcam": GradCAM, "gradcam++": GradCAMPlusPlus, "scorecam": ScoreCAM, "eigencam": _eigen_cam()}
    cam = kinds[method](model, [layer.module], layer.to_maps)
    cam.batch_size = AT_ONCE
    # After grad-cam's own hooks: what comes next may be an activation that writes into the map they keep.
    copy = layer.module.register_forward_hook(lambda _module, _inputs, output: output.clone())
    silence = contextlib.redirect_stderr(io.StringIO()) if method == "scorecam" else contextlib.nullcontext()
    try:
        with torch.enable_grad(), silence:  # Score-CAM draws a progress bar for each image
            return cam(inputs, [ClassifierOutputTarget(label) for label in labels])
    finally:
        copy.remove()
        cam.activations_and_grads.release()
        model.zero_grad()


def _eigen_cam() -> type:
    from pytorch_grad_cam import EigenCAM
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection_with_sign_correction

    class SignedEigenCAM(EigenCAM):
        """A principal component has no sign of its own: without a rule for it some maps would be negatives."""

        def get_cam_image(self, _inputs, _layer, _targets, activations, _grads, _smooth):  # noqa: ANN202
            return get_2d_projection_with_sign_correction(activations)

    return SignedEigenCAM


def integrated_gradients(model: nn.Module, inputs: Tensor, labels: list[int]) -> Tensor:
    """Integrated gradients (Sundararajan et al. 2017) from an image of nothing but the mean colour.

    Returns:
        float32 (B, C, h, w); an image's sum is the logit of its label less that of the mean colour, but for the error
        of STEPS steps.
    """
    from captum.attr import IntegratedGradients

    target = torch.tensor(labels, device=inputs.device)
    with torch.enable_grad():
        found = IntegratedGradients(model).attribute(
            inputs, target=target, n_steps=STEPS, internal_batch_size=max(AT_ONCE, len(inputs))
        )
    return found.detach().float()


def _occlusion(model: nn.Module, inputs: Tensor, labels: list[int]) -> np.ndarray:
    """How much the logit falls when a square of an eighth of the side, moved by half of itself, is the mean colour."""
    from captum.attr import Occlusion

    channels, height, width = inputs.shape[1:]
    window = [max(2, side // 8) for side in (height, width)]
    step = [max(1, side // 2) for side in window]
    with torch.no_grad():
        found = Occlusion(model).attribute(
            inputs,
            sliding_window_shapes=(channels, *window),
            strides=(channels, *step),
            target=torch.tensor(labels, device=inputs.device),
            perturbations_per_eval=max(1, AT_ONCE // len(inputs)),
        )
    return found.mean(1).float().cpu().numpy()
