"""Memory of one device in fine-tuning, reckoned from a model's config and the settings, without weights or a GPU.

A training step runs on the `meta` device, where tensors have sizes but no values, through the classes of transformers,
peft and TRL that the real step uses. Every allocation is counted until it is freed. What behaves in another way on a
device is imitated:

- bitsandbytes' 4-bit layers compute in the compute type, return the type of their input, and unpack their weights for
  each product (`bitsandbytes.autograd.MatMul4Bit`);
- mixed precision: products in bfloat16; on GPUs also layer norms and softmax in float32
  (docs.pytorch.org/docs/stable/amp.html, "CUDA Ops that can autocast to float32");
- attention keeps its inputs, its output and a sum per row, not the probabilities (arXiv 2205.14135, section 3.1).

Weights of the base model: 4 bits, an 8-bit scale per 64 weights and a 32-bit scale per 256 scales (arXiv 2305.14314,
section 3). Adam keeps two moments per trained parameter (arXiv 1412.6980). What the allocator loses to fragmentation,
and the context of CUDA, are in :data:`OVERHEAD` and :data:`CONTEXT`.
"""

import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast
from unittest.mock import patch

import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForImageTextToText, PreTrainedConfig
from trl.trainer import utils as trl_utils
from trl.trainer.utils import add_fused_lm_head

from nuvlm.models.vlm.adapter import lora_config, stop_gradients_at_inputs
from nuvlm.models.vlm.arithmetic import weight_bytes
from nuvlm.models.vlm.families import tower_pattern
from nuvlm.models.vlm.known_values import KnownValues, placed
from nuvlm.models.vlm.recomputation import recompute_tower
from nuvlm.models.vlm.settings import FinetuneSettings

GIB = 2**30
CONTEXT = int(0.7 * GIB)
"""What CUDA, cuBLAS and the driver take on a GPU before the first tensor."""
OVERHEAD = 1.05
"""Reserved over allocated memory, for what lies between blocks."""
OUTPUTS = ("log_probs", "entropy", "is_top1")
"""What TRL's SFTTrainer computes in its loss."""


@dataclass(frozen=True)
class Footprint:
    """Bytes on one device at the peak of a training step."""

    weights: int
    """Of the base model."""
    adapter: int
    """The adapter in float32, and its gradients."""
    optimizer: int
    """Adam's moments."""
    tower: int
    """Activations that the vision tower keeps for the backward pass."""
    text: int
    """Those of the language model."""
    passing: int
    """What comes and goes at the peak: loss, recomputed layers, gradients, unpacked weights."""

    @property
    def allocated(self) -> int:
        """Bytes in tensors."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Name -> bytes, for a table."""
        return asdict(self)

    def on_gpu(self) -> int:
        """Bytes of a GPU, with its context and fragmentation."""
        return on_gpu(self.allocated)


def on_gpu(allocated: int) -> int:
    """Bytes of a GPU for `allocated` bytes in tensors, with its context and fragmentation."""
    return int(OVERHEAD * allocated) + CONTEXT


def count_footprint(
    config: PreTrainedConfig,
    inputs: Mapping[str, Tensor],
    settings: FinetuneSettings,
    device: Literal["cuda", "cpu"] = "cuda",
) -> Footprint:
    """Reckon the memory of fine-tuning the model of `config`.

    Args:
        config: of the base model.
        inputs: a batch of ``settings.device_batch_size`` events as the collator gives it to the model, with labels, on
            any device; only its shapes matter, and how many tokens have labels (if on the meta device, all).
        settings: quantisation, adapter, precision, checkpointing, and how many processes share what.
        device: whose mixed precision is imitated.

    Raises:
        RuntimeError: from torch, for models whose control flow depends on the values of their inputs.
    """
    dtype = torch.bfloat16 if settings.bf16 else torch.float32
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    tower = tower_pattern(model)
    weights = stored_bytes(model, settings.quantization, bf16=settings.bf16)
    if settings.quantization != "none":
        _pack(model, settings.quantization, dtype)
    add_fused_lm_head(model, outputs=OUTPUTS)
    model = get_peft_model(model.requires_grad_(False), lora_config(model, settings.lora, tower)).train()
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        if settings.lora.vision:
            recompute_tower(model, tower, use_reentrant=False)
    stop_gradients_at_inputs(model)
    trained = 0
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
            parameter.grad = torch.zeros_like(parameter)
            trained += parameter.numel()
    batch = placed(inputs, config, dtype)
    if batch["input_ids"].is_meta:
        # The mask of the attention itself: from the usual one, transformers makes it by looking at values.
        n, length = batch["input_ids"].shape
        batch["attention_mask"] = torch.empty(n, 1, length, length, dtype=torch.bool, device="meta")
    # TRL's loss keeps the supervised tokens only, by their values.
    labels = inputs["labels"][:, 1:]
    supervised = labels.numel() if labels.is_meta else int((labels != -100).sum())
    live = _Live()
    marks: dict[str, int] = {}
    base = model.get_base_model()
    hooks = [
        base.get_submodule(name).register_forward_hook(lambda *_, what=what: marks.update({what: live.bytes}))
        for name, what in ((_tower_of(base, tower), "tower"), (base.base_model_prefix, "text"))
    ]
    with (
        _precision(dtype, device == "cuda"),
        patch.object(trl_utils, "_ChunkedLogProbFunction", _Loss(supervised)),
        live,
        KnownValues(),
    ):
        output = model(**batch, fused_lm_head=True)
        (-output.log_probs.sum()).backward()
    for hook in hooks:
        hook.remove()
    share = settings.processes if settings.strategy == "deepspeed" else 1
    if settings.strategy == "balanced":
        # The first GPU has its share of the layers, and accelerate gives it the whole tower.
        weights //= max(settings.gpus, 1)
    if settings.strategy == "deepspeed" and settings.zero_stage == 3 and settings.quantization == "none":
        weights //= share  # quantised weights are not partitioned while they are loaded
    return Footprint(
        weights=weights,
        adapter=4 * trained + 4 * trained // share,
        optimizer=8 * trained // share,
        # Less at the end of the model than at the end of the tower, where the text is short: masks are freed between.
        tower=min(marks.values()),
        text=marks["text"] - min(marks.values()),
        passing=live.peak - marks["text"],
    )


def stored_bytes(model: nn.Module, quantization: str, *, bf16: bool) -> int:
    """Bytes of the weights of `model`, which may be on the meta device, as they are loaded."""
    quantised, plain = weight_bytes(model, quantization)
    return quantised + (plain if bf16 else 2 * plain)


def _tower_of(model: nn.Module, vision_tower: str) -> str:
    """Name of the vision tower's outermost module."""
    return next(name for name, _ in model.named_modules() if re.fullmatch(vision_tower, name))


class _Live(TorchDispatchMode):
    """Counts the bytes of all storages that are allocated while the mode is active.

    Attributes:
        bytes: alive now.
        peak: the most at any time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if id(storage) not in before and id(storage) not in self._known:
                    self._add(storage)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        size, key = storage.nbytes(), id(storage)

        def freed(_: Any) -> None:
            self.bytes -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, freed)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)


@contextmanager
def _precision(dtype: torch.dtype, gpu: bool) -> Iterator[None]:
    """Imitate mixed precision and fused attention.

    Args:
        dtype: compute type.
        gpu: whether layer norms and softmax give float32.
    """

    def casting(function: Callable[..., Any], kind: torch.dtype) -> Callable[..., Any]:
        def cast(*args: Any, **kwargs: Any) -> Any:
            values = {name: _cast(value, kind) for name, value in kwargs.items()}
            return function(*(_cast(value, kind) for value in args), **values)

        return cast

    def attention(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **__: Any
    ) -> Any:
        return _Attention.apply(*(_cast(item, dtype) for item in (query, key, value)), attn_mask)

    def enabled(device_type: str | None = None) -> bool:
        # Without an argument it is that of CUDA.
        return dtype != torch.float32 and (gpu or device_type == "meta")

    library = nn.functional
    with ExitStack() as stack:
        for name in ("linear", "conv2d"):
            stack.enter_context(patch.object(library, name, casting(getattr(library, name), dtype)))
        for name in ("layer_norm", "softmax") if gpu else ():
            stack.enter_context(patch.object(library, name, casting(getattr(library, name), torch.float32)))
        for name in ("matmul", "bmm", "baddbmm"):
            stack.enter_context(patch.object(torch, name, casting(getattr(torch, name), dtype)))
        stack.enter_context(patch.object(library, "scaled_dot_product_attention", attention))
        # peft and TRL ask torch, which knows no mixed precision on the meta device.
        stack.enter_context(patch.object(torch, "is_autocast_enabled", enabled))
        stack.enter_context(patch.object(torch, "get_autocast_dtype", lambda device_type: dtype))
        yield


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


class _Loss:
    """TRL's loss of the first `supervised` tokens, in place of those that are supervised."""

    def __init__(self, supervised: int) -> None:
        self._supervised = supervised
        self._loss = trl_utils._ChunkedLogProbFunction

    def apply(self, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *options: Any) -> Any:
        n = self._supervised
        found = self._loss.apply(states[:n], weight, bias, targets[:n], *options)
        rest = len(states) - n
        return tuple(None if value is None else torch.cat([value, value.new_zeros(rest)]) for value in found)


class _Attention(torch.autograd.Function):
    """The memory of fused attention; no values."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        # Queries may be more than keys and values (grouped-query attention).
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, sums, mask)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


class _Unpacked(torch.autograd.Function):
    """A product with weights that are unpacked for it; no values. Only the packed weights are kept."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.shape, ctx.weight, ctx.dtype = values.shape, weight, dtype
        unpacked = torch.empty(weight.shape, dtype=dtype, device=weight.device)
        return values.new_empty((*values.shape[:-1], len(unpacked)))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        unpacked = torch.empty(ctx.weight.shape, dtype=ctx.dtype, device=ctx.weight.device)
        return gradients[0].new_empty((*gradients[0].shape[:-1], unpacked.shape[1])), None, None


class _Packed(nn.Linear):
    """The memory of bitsandbytes' quantised layers."""

    compute: torch.dtype

    def forward(self, values: Tensor) -> Tensor:
        out = _Unpacked.apply(values.to(self.compute), self.weight, self.compute)
        return (out if self.bias is None else out + self.bias).to(values.dtype)


def _pack(model: nn.Module, quantization: str, dtype: torch.dtype) -> None:
    """Make the linear layers that are quantised when a model is loaded behave so."""
    for name, module in model.named_modules():
        if type(module) is nn.Linear and not name.endswith("lm_head"):
            module.__class__ = _Packed
            cast(_Packed, module).compute = torch.float16 if quantization == "int8" else dtype
