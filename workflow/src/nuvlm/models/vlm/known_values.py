"""Run a model on the meta device although its code looks at values: those of inputs and positions are known.

Weights and what is computed with them have sizes but no values. Token ids, sizes of pictures, masks and positions do
not depend on weights: they stay on the CPU, with values, until they meet a tensor of the meta device.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from transformers import MllamaConfig, PreTrainedConfig

META = torch.device("meta")


def placed(inputs: Mapping[str, torch.Tensor], config: PreTrainedConfig, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A batch for the model of `config` on the meta device, with floats of the type `dtype`.

    Mllama's code looks at no values, and its masks of patches by patches are large: its inputs have no values either.
    """
    device = META if isinstance(config, MllamaConfig) else torch.device("cpu")
    return {
        name: value.to(device, dtype if value.is_floating_point() else value.dtype) for name, value in inputs.items()
    }


class KnownValues(TorchDispatchMode):
    """Keeps tensors with values on the CPU, also where they are to be made on or moved to the meta device."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        unknown = any(tensor.is_meta for tensor in tensors)
        to_meta = kwargs.get("device") is not None and torch.device(kwargs["device"]) == META
        if to_meta and not unknown and (tensors or _makes_integers(function, args, kwargs)):
            return function(*args, **kwargs | {"device": torch.device("cpu")})
        if unknown and kwargs.get("device") is not None:
            kwargs["device"] = META  # not to a tensor that has stayed on the CPU
        if unknown and len({tensor.device for tensor in tensors}) > 1:
            if function.overloadpacket in INDEXED:
                args = (args[0], _indices(args[1]), *args[2:])
            args, kwargs = tree_map(_forget, args), tree_map(_forget, kwargs)
        return function(*args, **kwargs)


INDEXED: tuple[Any, ...] = (
    torch.ops.aten.index,
    torch.ops.aten.index_put,
    torch.ops.aten.index_put_,
    torch.ops.aten._index_put_impl_,
    torch.ops.aten._unsafe_index_put,
)
"""Functions whose second argument may hold masks; the number of chosen elements is known from their values."""


def _indices(places: Any) -> list[Any]:
    found: list[Any] = []
    for place in places:
        if isinstance(place, torch.Tensor) and place.dtype == torch.bool and not place.is_meta:
            found += place.nonzero().unbind(1)
        else:
            found.append(place)
    return found


def _makes_integers(function: Callable[..., Any], args: Any, kwargs: Any) -> bool:
    """Whether a function without tensors makes one of whole numbers or of yes and no."""
    dtype = kwargs.get("dtype")
    if dtype is not None:
        return not (dtype.is_floating_point or dtype.is_complex)
    return "arange" in str(function) and all(isinstance(value, int) for value in args)


def _forget(leaf: Any) -> Any:
    """The tensor without its values."""
    if isinstance(leaf, torch.Tensor) and not leaf.is_meta:
        return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=META)
    return leaf
