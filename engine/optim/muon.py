"""Muon: momentum whose update is orthogonalised, for the weights inside a net; Adam for everything else."""

from collections.abc import Callable

import torch
from torch import Tensor

from engine.runtime.hardware import bf16_pays

# Of x -> a x + b x^3 + c x^5, chosen for the steepest slope at 0, so that few rounds bring small singular values near 1
# (Jordan et al. 2024, "Muon", https://kellerjordan.github.io/posts/muon/).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# Rows, and columns for each of them, from which the rounds work on the square Gram matrix: two products with the long
# one instead of two a round. It rounds twice as much in bfloat16, and smaller matrices take next to no time.
MANY, LONG = 512, 4


def orthogonalize(matrix: Tensor, rounds: int = 3) -> Tensor:
    """The nearest matrix with singular values of about 1 (0.5 to 1.5), by Newton-Schulz iteration.

    Args:
        matrix: (R, C), of the dtype to compute in.
        rounds: of the iteration; few are enough for training.

    Returns:
        A tensor like `matrix`: U S' V^T for its singular value decomposition U S V^T, with S' near 1.
    """
    a, b, c = COEFFICIENTS
    wide = matrix.T if len(matrix) > matrix.shape[1] else matrix
    x = wide / (torch.linalg.vector_norm(wide) + 1e-7)
    if len(x) >= MANY and x.shape[1] >= LONG * len(x):
        x = _all_rounds(x @ x.T, rounds) @ x
    else:
        for _ in range(rounds):
            gram = x @ x.T
            x = torch.addmm(x, b * gram + c * gram @ gram, x, beta=a)
    return x.T if len(matrix) > matrix.shape[1] else x


def _all_rounds(gram: Tensor, rounds: int) -> Tensor:
    """What the rounds multiply a matrix by, from its Gram matrix alone: what they multiply it by commutes with that."""
    a, b, c = COEFFICIENTS
    one = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    product = one
    for _ in range(rounds):
        factor = a * one + b * gram + c * gram @ gram
        product = factor @ product
        gram = factor @ gram @ factor
    return product


class Muon(torch.optim.Optimizer):
    """Muon for the groups with `orthogonal=True`, Adam for the others.

    A weight of R rows (output channels) is kept at the norm sqrt(R), as in KellerJordan/cifar10-airbench
    (`airbench94_muon.py`): before batch norm its length changes nothing but the learning rate. So one step turns it by
    about `lr` of itself. Like PyTorch's fused optimizers it leaves the weights alone while its attribute `found_inf`, a
    float tensor on their device, is not 0, and nothing waits for that number.

    Args:
        groups: parameter groups with `lr`, and `orthogonal` or `weight_decay` (decoupled, for Adam's).
        momentum: of Nesterov's kind, for the orthogonalised.
        betas, eps: Adam's.
        precision: dtype of the iteration; None: bfloat16 where that is fast, else float32.
    """

    def __init__(
        self,
        groups: list[dict],
        lr: float,
        momentum: float = 0.6,
        betas: tuple[float, float] = (0.85, 0.95),
        eps: float = 1e-8,
        precision: torch.dtype | None = None,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps}
        super().__init__(groups, {**defaults, "orthogonal": False, "weight_decay": 0.0})
        self.precision = precision
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        """One update of every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            update = self._turn if group["orthogonal"] else self._adam
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                before = parameter.clone() if self.found_inf is not None else None
                update(parameter, parameter.grad, self.state[parameter], group)
                if before is not None:
                    parameter.copy_(torch.where(self.found_inf == 0, parameter, before))

    def _turn(self, weight: Tensor, grad: Tensor, state: dict, group: dict) -> None:
        if not state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        average = state["momentum_buffer"].mul_(group["momentum"]).add_(grad)
        ahead = grad.add(average, alpha=group["momentum"])
        precision = self.precision or (torch.bfloat16 if bf16_pays(weight.device.type) else torch.float32)
        direction = orthogonalize(ahead.flatten(1).to(precision))
        weight.mul_(len(weight) ** 0.5 / torch.linalg.vector_norm(weight))
        weight.add_(direction.view_as(weight), alpha=-group["lr"])

    def _adam(self, parameter: Tensor, grad: Tensor, state: dict, group: dict) -> None:
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(grad), torch.zeros_like(grad)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        mean = state["exp_avg"].lerp_(grad, 1 - beta1)
        square = state["exp_avg_sq"].lerp_(grad.square(), 1 - beta2)
        step = state["step"].item()
        root = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(mean, root, value=-group["lr"] / (1 - beta1**step))
