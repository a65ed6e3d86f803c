"""Models divided among the processes (FSDP2): whole tensors out of them, and whole tensors back into them.

What a run writes is always whole, so that its files do not say on how many processes, sharded or not, they were made.
A model that is not sharded passes through here unchanged.
"""

from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from torch import Tensor, nn

from common.errors import UserError


def set_up(accelerator: Accelerator) -> None:
    """Have Accelerate shard in the one way that a run is made for.

    Raises:
        UserError: it was asked for FSDP version 1, or for compilation as well.
    """
    plugin = accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise UserError("fsdp_version 1 is not supported: use accelerate_configs/fsdp2.yaml, or set it to 2")
    # Accelerate would compile first and shard the outside, so that the model within could not be evaluated.
    if accelerator.state.dynamo_plugin.backend != DynamoBackend.NO:
        raise UserError("--compile does not go with sharding (FSDP): leave one of them out")
    # Autocast chooses the precision, as everywhere else; FSDP would also cast batch norm, all but its statistics.
    plugin.mixed_precision_policy = None
    # Every process builds the same weights from the seed; sending them from the first one knows no buffers.
    plugin.cpu_ram_efficient_loading = False


def is_sharded(tensor: Tensor) -> bool:
    """Whether each process holds only a part: a DTensor, known by its method, as importing the class takes seconds."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be sharded; to be called by all processes."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor that may be sharded, in the memory where it is."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def divide_model(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Divide a model that is not trained as Accelerate divides the one that is, if it does."""
    if not accelerator.is_fsdp2:
        return model
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    return fsdp2_prepare_model(accelerator, model)


def divide_again(model: nn.Module) -> None:
    """Have each process hold its own part alone again, where a forward pass without a backward pass has left more."""
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()


def gather(tensors: dict[str, Tensor], accelerator: Accelerator) -> dict[str, Tensor]:
    """All of tensors that may be sharded, on the main process; nothing on the others.

    To be called by all processes. Sharded ones come to the CPU one by one, as together they may not fit a device.
    """
    gathered = {}
    for name, tensor in tensors.items():
        full = tensor.full_tensor().cpu() if is_sharded(tensor) else tensor
        if accelerator.is_main_process:
            gathered[name] = full
    return gathered


def divide(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, divided as `like` is; all of it where `like` is not sharded.

    Every process must have the same whole tensor: none is sent.
    """
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
