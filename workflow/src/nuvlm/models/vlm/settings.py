"""Settings of the vision-language model; the defaults are the published ones (arXiv 2509.08461)."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from nuvlm.base.settings import FilePath, Settings
from nuvlm.models.jobs import FamilySettings, Request

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Background = Literal["black", "white"]
Quantization = Literal["nf4", "int8", "none"]
OWN_BASES = ("scratch", "smollm")
"""Base models that are small and made here; their processor scales every picture to `image_size`."""


def _check_patches(settings: Any) -> Any:
    """Refuse a picture that is not made of whole patches, or heads that do not share a width."""
    if settings.image_size % settings.patch_size:
        raise ValueError(f"image_size ({settings.image_size}) must be a multiple of patch_size ({settings.patch_size})")
    if settings.hidden % settings.heads:
        raise ValueError(f"hidden ({settings.hidden}) must be a multiple of heads ({settings.heads})")
    return settings


class ScratchSettings(Settings):
    """The tiny Mllama that the demo builds: the same classes as Llama 3.2 Vision."""

    section: ClassVar[str] = "scratch"
    hidden: Annotated[int, Field(ge=64, multiple_of=64)] = 64
    """Width of text and vision layers; a multiple of 64, as nf4 needs."""
    text_layers: Annotated[int, Field(ge=2)] = 4
    """Layers of the language model, every other one cross-attention to the images."""
    vision_layers: Count = 3
    heads: Count = 4
    image_size: Annotated[int, Field(ge=28)] = 112
    """Side of the one image tile, pixels."""
    patch_size: Count = 14
    vocabulary: Annotated[int, Field(ge=300)] = 768
    steps: Count = 1800
    """Steps of the pre-training on geometric shapes and their descriptions."""
    batch_size: Count = 16
    learning_rate: Rate = 3e-3
    seed: int = 7

    _check = model_validator(mode="after")(_check_patches)


class GraftSettings(Settings):
    """SmolLM2-135M-Instruct in the classes of Llama 3.2 Vision, with a new vision tower."""

    section: ClassVar[str] = "smollm"
    cross_attention_layers: Annotated[int, Field(ge=1, le=30)] = 5
    """New layers that see the images, spread over the 30 of the language model."""
    hidden: Annotated[int, Field(ge=64, multiple_of=64)] = 128
    """Width of the vision tower; a multiple of 64, as nf4 needs."""
    vision_layers: Count = 4
    heads: Count = 4
    image_size: Annotated[int, Field(ge=28)] = 112
    """Side of the one image tile, pixels."""
    patch_size: Count = 14
    steps: Count = 600
    """Steps of the pre-training of the new parts on geometric shapes and their descriptions."""
    batch_size: Count = 16
    learning_rate: Rate = 1e-3
    seed: int = 7

    _check = model_validator(mode="after")(_check_patches)


class HubSettings(Settings):
    """A published model, downloaded once by fetch_base_model."""

    model: str = "meta-llama/Llama-3.2-11B-Vision-Instruct"
    revision: str = "main"
    """Branch, tag or commit; only a commit makes a run reproducible."""
    max_tiles: Literal[1, 4] | None = 4
    """Image tiles: a 512 x 512 pixel map fits one, Llama 3.2 Vision pads to four; null: as published."""

    @property
    def folder_name(self) -> str:
        """The model's name as the name of a folder, as the hub's cache writes it: owner--name."""
        return self.model.replace("/", "--")


class LoraSettings(Settings):
    r: Count = 8
    alpha: Count = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    target_modules: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    vision: bool = True
    """Adapters on the vision tower, whose attention the published names also match; false keeps it frozen."""
    projector: bool = False
    """Adapters on all linear layers between the tower and the language model, whatever their names."""
    language: bool = True
    """Adapters on the language model; false keeps it frozen."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.vision or self.projector or self.language):
            raise ValueError("vision, projector and language are all false: nothing would be trained")
        return self


class FinetuneSettings(Settings):
    quantization: Quantization = "nf4"
    """The base model's weights: `nf4` 4-bit with double quantisation, `int8` LLM.int8, `none` bfloat16."""
    lora: LoraSettings = LoraSettings()
    strategy: Literal["single", "ddp", "deepspeed", "balanced"] = "ddp"
    """`ddp`: one replica per process. `deepspeed`: the same, with states partitioned by `zero_stage`. `balanced`: one
    process with the layers distributed over its GPUs, as published."""
    zero_stage: Literal[2, 3] = 2
    """DeepSpeed partitions gradients and optimiser states (2), and also weights (3), see arXiv 1910.02054; its other
    settings are in resources/deepspeed."""
    processes: Count = 4
    """Processes started by torchrun, one per GPU (`ddp`, `deepspeed`), on all nodes together."""
    nodes: Count = 1
    """Nodes of the Slurm job; several are started with srun."""
    gpus: Annotated[int, Field(ge=0)] = 4
    """GPUs of the finetune_vlm job."""
    epochs: Annotated[float, Field(gt=0)] = 1
    global_batch_size: Count = 8
    """Events per optimiser step, over all processes (published: 4 x 2 accumulated x 1 replica)."""
    device_batch_size: Count = 2
    """Events per forward pass on one device; gradient accumulation follows from the global batch."""
    learning_rate: Rate = 2e-4
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    max_grad_norm: Annotated[float, Field(gt=0)] = 0.3
    optimizer: str = "adamw_torch_fused"
    schedule: str = "constant_with_warmup"
    """transformers' `constant` ignores the warm-up that the paper states."""
    bf16: bool = True
    gradient_checkpointing: bool = True
    workers: Annotated[int, Field(ge=0)] = 2
    """Loader processes of each training process, which prepare batches while a GPU computes; 0 on a CPU."""
    save_steps: Count = 500
    logging_steps: Count = 10
    background: Background = "white"
    """Of the pictures: pixels without charge are `black`, as in the pixel maps, or `white`, as published: inverted."""
    eval_steps: Count | None = 1000
    """Steps between evaluations on validation events; null: only at the end."""
    eval_events: Count = 256
    """Validation events of each evaluation during training, drawn once; the one at the end takes all."""
    load_best_model_at_end: bool = True
    """Keep the adapter of the evaluation with the lowest loss; false: that of the last step."""
    rationales: Literal["none", "grounded"] = "none"
    """`none`: answers end with the label, as published. `grounded`: a description of the event from simulated truth
    follows, in the phrasings of `vlm.vocabulary`."""
    rationale_loss: Rate = 0.2
    """Share of the rationale in an event's loss, whatever its length; the label has the rest."""
    seed: int = 7

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.strategy not in ("ddp", "deepspeed") and self.processes != 1:
            raise ValueError(f"processes = {self.processes} needs strategy: ddp or deepspeed, not {self.strategy}")
        if self.processes % self.nodes:
            raise ValueError(f"processes ({self.processes}) must be a multiple of nodes ({self.nodes})")
        if self.global_batch_size % (self.device_batch_size * self.processes):
            raise ValueError(
                f"global_batch_size ({self.global_batch_size}) must be a multiple of device_batch_size x processes "
                f"({self.device_batch_size} x {self.processes})"
            )
        if self.load_best_model_at_end and self.eval_steps is None:
            raise ValueError(
                "load_best_model_at_end: true needs evaluations: set eval_steps, or load_best_model_at_end: false"
            )
        return self

    @property
    def cautions(self) -> tuple[str, ...]:
        """Consequences that are not obvious, for the plan and the log."""
        if self.strategy == "deepspeed" and self.zero_stage == 3 and self.quantization != "none":
            return (
                f"vlm.finetune: with zero_stage: 3 and quantization: {self.quantization} each GPU first holds the "
                "whole quantised model, and its parts are distributed later; a model that does not fit one GPU needs "
                "quantization: none",
            )
        return ()


class ClassifySettings(Settings):
    method: Literal["score", "beam"] = "score"
    """`score`: teacher-forced probability of each answer. `beam`: constrained beam search, as published."""
    decision: Literal["joint", "first_token", "two_tokens"] = "joint"
    """The class of the most probable whole answer, first token of the label, or first two tokens (docs/vlm.md)."""
    temperature: Annotated[float, Field(gt=0)] = 5.0
    """Factor T on the log-probabilities before the softmax over classes (Eq. 1 of the paper); above 1 sharpens."""
    batch_size: Count = 8
    """Events per batch; halved until they fit in memory."""
    quantization: Quantization | None = None
    """Of the base model's weights, also for explanations; null: as in the fine-tuning."""
    merge_adapter: bool = False
    """Dequantise the weights once and merge the adapter: faster, needs more memory, equal up to rounding."""
    gpus: Annotated[int, Field(ge=0)] = 1


class ExplainSettings(Settings):
    """Generation of rationales; device, adapter and weights are those of `classify`."""

    batch_size: Count = 8
    """Pictures per batch; halved until they fit in memory."""
    max_new_tokens: Count = 160
    """Maximum length of a rationale."""
    samples: Count = 1
    """Rationales drawn for each picture, of which the one whose claims the others support best is written down; 1: none
    is drawn, and each next word is the likeliest one (greedy)."""
    saliency: bool = False
    """Whether to measure also how much the log-probability of the answer falls when a cell of a view is black: about
    ten to twenty further passes an event."""


def training_needs(gpus: int) -> dict[str, Any]:
    """Memory and time that a training of the whole base model asks for, as fields of a :class:`Request`."""
    return {"memory_mb": 16000 + 32000 * gpus, "minutes": 1440}


def inference_needs(gpus: int) -> dict[str, Any]:
    """The same of classification and explanation."""
    return {"memory_mb": 8000 + 32000 * gpus, "minutes": 480}


class VlmSettings(FamilySettings):
    base: Literal["scratch", "smollm", "hub", "random"] = "hub"
    """`scratch`: build_base_model makes a tiny Mllama. `smollm`: build_grafted_base makes one with a small language
    model that has read English. `hub`: fetch_base_model downloads one. `random`: one of the shape of `hub.model` with
    random weights, for trials (resources/shapes)."""
    scratch: ScratchSettings = ScratchSettings()
    smollm: GraftSettings = GraftSettings()
    hub: HubSettings = HubSettings()
    prompts: FilePath = "resources/prompts.yaml"
    vocabulary: FilePath = "resources/rationales.yaml"
    """Phrasings that state truth and parse rationales."""
    finetune: FinetuneSettings = FinetuneSettings()
    classify: ClassifySettings = ClassifySettings()
    explain: ExplainSettings = ExplainSettings()
    gpu_memory_gib: Annotated[float, Field(gt=0)] | None = None
    """Memory of a GPU, GiB, as on the card's name (48 of an RTX A6000): `make plan` refuses settings that do not fit;
    null: it only says what they take."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.base == "random" and self.inference_quantization != self.finetune.quantization:
            raise ValueError(
                f"classify.quantization ({self.inference_quantization}) must be that of finetune "
                f"({self.finetune.quantization}) or null with base: random, whose weights are stored quantised"
            )
        return self

    @property
    def base_folder(self) -> str:
        """Folder of the base model: of the run that makes it, or shared between runs if it is fetched."""
        if self.base != "hub":
            return "<models>/base"
        tiles = "as-published" if self.hub.max_tiles is None else f"{self.hub.max_tiles}tile"
        return f"results/hub/{self.hub.folder_name}/{self.hub.revision.replace('/', '--')}-{tiles}"

    def _inputs(self, **more: str) -> dict[str, str]:
        return {"base": f"{self.base_folder}/manifest.json", "prompts": self.prompts, **more}

    @property
    def first_seed(self) -> int:
        return self.finetune.seed

    @property
    def explanations_per_event(self) -> int:
        return self.explain.samples

    def training(self, training: str) -> Request:
        tune = self.finetune.model_copy(update={"seed": self.seed_of(training)})
        inputs = self._inputs()
        if tune.rationales == "grounded":
            inputs["vocabulary"] = self.vocabulary
        if tune.strategy == "deepspeed":
            inputs["deepspeed"] = f"resources/deepspeed/zero{tune.zero_stage}.json"
        return Request(
            **training_needs(tune.gpus),
            run="nuvlm.models.vlm.jobs:train",
            settings=tune.model_dump(mode="json", exclude={"gpus", "workers"}),
            untracked={"workers": tune.workers},
            inputs=inputs,
            gpus=tune.gpus,
            nodes=tune.nodes,
            resumes=True,
            events_factor=tune.epochs,
        )

    def _inference(self, run: str, settings: Settings, **inputs: str) -> Request:
        return Request(
            **inference_needs(self.classify.gpus),
            run=run,
            settings={
                "settings": settings.model_dump(mode="json", exclude={"gpus", "quantization"}),
                "merge_adapter": self.classify.merge_adapter,
                "quantization": self.inference_quantization,
                "bf16": self.finetune.bf16,
            },
            inputs=self._inputs(**inputs),
            gpus=self.classify.gpus,
        )

    @property
    def inference_quantization(self) -> Quantization:
        """Of the weights that classify and explain."""
        return self.classify.quantization or self.finetune.quantization

    def classification(self) -> Request:
        return self._inference("nuvlm.models.vlm.jobs:classify", self.classify)

    def explanation(self) -> Request:
        return self._inference("nuvlm.models.vlm.jobs:explain", self.explain, vocabulary=self.vocabulary)
