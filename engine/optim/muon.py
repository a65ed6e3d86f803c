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
        groups = [(group, [p for p in group["params"] if p.grad is not None]) for group in self.param_groups]
        changed = [parameter for _, parameters in groups for parameter in parameters]
        before = None if self.found_inf is None else _flat(changed)
        for group, parameters in groups:
            if parameters:
                update = self._turn if group["orthogonal"] else self._adam
                update(parameters, [p.grad for p in parameters], [self.state[p] for p in parameters], group)
        if before is not None:
            kept = torch.where(self.found_inf == 0, _flat(changed), before)
            parts = kept.split([parameter.numel() for parameter in changed])
            torch._foreach_copy_(changed, [part.view(p.shape) for part, p in zip(parts, changed, strict=True)])

    # All of a group go through an operation together: a GPU is done with each of them before Python has asked for the
    # next. On CPUs the same is done one by one, to the same bits.

    def _turn(self, weights: list[Tensor], grads: list[Tensor], states: list[dict], group: dict) -> None:
        for state, grad in zip(states, grads, strict=True):
            if not state:
                state["momentum_buffer"] = torch.zeros_like(grad)
        averages = [state["momentum_buffer"] for state in states]
        torch._foreach_mul_(averages, group["momentum"])
        torch._foreach_add_(averages, grads)
        ahead = torch._foreach_add(grads, averages, alpha=group["momentum"])
        precision = self.precision or (torch.bfloat16 if bf16_pays(weights[0].device.type) else torch.float32)
        directions = [orthogonalize(matrix.flatten(1).to(precision)).view_as(matrix) for matrix in ahead]
        inverses = torch._foreach_reciprocal(torch._foreach_norm(weights))
        torch._foreach_mul_(weights, torch._foreach_mul(inverses, [len(weight) ** 0.5 for weight in weights]))
        torch._foreach_add_(weights, directions, alpha=-group["lr"])

    def _adam(self, parameters: list[Tensor], grads: list[Tensor], states: list[dict], group: dict) -> None:
        for state, grad in zip(states, grads, strict=True):
            if not state:
                state["step"] = torch.zeros(())
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(grad), torch.zeros_like(grad)
            state["step"] += 1
        beta1, beta2 = group["betas"]
        steps = [state["step"].item() for state in states]  # they differ where some were frozen
        means, squares = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_lerp_(squares, torch._foreach_mul(grads, grads), 1 - beta2)
        roots = torch._foreach_div(squares, [1 - beta2**step for step in steps])
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, group["eps"])
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_addcdiv_(parameters, means, roots, [-group["lr"] / (1 - beta1**step) for step in steps])


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
