"""The table of model families: a new one is a row here (CONTRIBUTING.md has the list of what else it needs).

A family has one model, called like the family, or several: ``cnn_tuned`` is of the family ``cnn``. A whole name comes
first: ``vlm_head`` is a family, not a model of ``vlm``. The functions here take names of trainings, too.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from nuvlm.models.bdt.settings import BdtSettings
from nuvlm.models.cnn.settings import CnnSettings
from nuvlm.models.conditions import PROMPT_CONDITIONS
from nuvlm.models.jobs import FamilySettings
from nuvlm.models.trainings import split_training
from nuvlm.models.vit.settings import VitSettings
from nuvlm.models.vlm.settings import VlmSettings
from nuvlm.models.vlm_head.settings import VlmHeadSettings


class Family(NamedTuple):
    """A family of models."""

    title: str
    """In running text."""
    settings: type[FamilySettings]
    """Its section of the configuration."""
    training_rule: str
    weights: str
    """File of a trained model, beside manifest.json and training.json."""
    prompted: bool = False
    """Whether it reads a prompt, so that conditions of the prompt apply."""
    explains: Literal["saliency", "rationales"] | None = None
    """Saliency maps (a Zarr store) or rationales (a table)."""
    on_base: bool = False
    """Whether it uses the base model (`vlm.base`)."""


SUFFIXES = {"saliency": ".zarr", "rationales": ".parquet"}
"""Kind of explanation -> suffix of the store or table of one part."""
FAMILIES = {
    "cnn": Family("CNN", CnnSettings, "train_cnn", "model.safetensors", explains="saliency"),
    "bdt": Family("BDT", BdtSettings, "train_bdt", "model.safetensors"),
    "vit": Family("ViT", VitSettings, "train_vit", "model.safetensors", explains="saliency", on_base=True),
    "vlm_head": Family(
        "VLM head", VlmHeadSettings, "train_vlm_head", "model.safetensors", explains="saliency", on_base=True
    ),
    "vlm": Family(
        "VLM",
        VlmSettings,
        "finetune_vlm",
        "adapter_model.safetensors",
        prompted=True,
        explains="rationales",
        on_base=True,
    ),
}
"""Name -> family, in the order of the report. The name is the section of the configuration."""


def family_name(model: str) -> str:
    """The family of a model: ``cnn_tuned`` -> ``cnn``."""
    name = split_training(model)[0]
    return name if name in FAMILIES else name.partition("_")[0]


def family_of(model: str) -> Family:
    """The row of a model's family.

    Raises:
        KeyError: there is none.
    """
    return FAMILIES[family_name(model)]


def title(model: str) -> str:
    """A model's name in running text: ``vlm`` -> VLM, ``cnn_tuned`` -> CNN tuned."""
    model, number = split_training(model)
    name = family_name(model)
    variant = model.removeprefix(name).removeprefix("_")
    family = FAMILIES.get(name)
    words = " ".join(filter(None, [family.title if family else name.upper(), variant.replace("_", " ")]))
    return words if number == 1 else f"{words}, training {number}"


def conditions_of(model: str, conditions: Iterable[str]) -> list[str]:
    """Those of `conditions` that apply to `model`, in their order."""
    family = FAMILIES.get(family_name(model))
    return [name for name in conditions if name not in PROMPT_CONDITIONS or (family and family.prompted)]
