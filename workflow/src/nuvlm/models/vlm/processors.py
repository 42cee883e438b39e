"""The processor of a model: its tokenizer, image processor and chat template, for images and text only.

Everything is computed without torchvision, also where it is installed, so that all machines get the same pixels. Many
processors also read videos, with a part that needs torchvision: it is left out.
"""

from pathlib import Path
from typing import Any

from transformers import PROCESSOR_MAPPING, AutoConfig, AutoImageProcessor, AutoTokenizer, ProcessorMixin

from nuvlm.base.errors import InputError
from nuvlm.models.vlm.templates import TemplateRefusedError, adapt_template

VIDEOS = "video_processor"
PROVEN = "Qwen/Qwen3-VL-2B-Instruct or HuggingFaceTB/SmolVLM2-2.2B-Instruct"


def refused(where: Path | str, check: str, reason: str) -> InputError:
    """The error for a model that does not pass a check."""
    return InputError(
        f"{where}: this model cannot be used. {check}: {reason}. Set vlm.hub.model to another one, such as {PROVEN}; "
        "docs/vlm.md lists the families that are proven."
    )


def read_processor(folder: Path, where: Path | str | None = None) -> ProcessorMixin:
    """The processor of the model in `folder`, with a chat template that marks the answers.

    Its tokenizer's end token is the one that ends an answer.

    Args:
        where: the model's name for messages.

    Raises:
        InputError: a part is missing, or needs packages that are not there.
    """
    name = where or folder
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if type(config) not in PROCESSOR_MAPPING:
        raise refused(name, "processor", f"transformers has none for the family '{config.model_type}'")
    try:
        published = PROCESSOR_MAPPING[type(config)]
        values, _ = published.get_processor_dict(folder, local_files_only=True)
        parts = [_part(folder, attribute) for attribute in published.get_attributes()]
        processor: ProcessorMixin = _without_videos(published).from_args_and_dict(parts, values)
    except ImportError as error:
        raise refused(name, "processor", f"it needs a package that is missing ({_first_sentence(error)})") from error
    except (ValueError, TypeError, OSError, KeyError, AttributeError) as error:
        raise refused(name, "processor", f"it cannot be made for images and text ({_first_sentence(error)})") from error
    try:
        adapt_template(processor)
    except TemplateRefusedError as error:
        raise refused(name, "chat template", str(error)) from error
    return processor


def _part(folder: Path, attribute: str) -> Any:
    """One part of a processor; None for that of videos."""
    if attribute == VIDEOS:
        return None
    if attribute == "tokenizer":
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if attribute == "image_processor":
        return AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    raise ValueError(f"it has a part for other data, {attribute}")


def _without_videos(kind: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """The class of a processor, without its part for videos."""

    # The constructor gets None for it, and does not keep it.
    def get_attributes(cls: type[ProcessorMixin]) -> list[str]:
        return [name for name in kind.get_attributes() if name != VIDEOS]

    members = {"get_attributes": classmethod(get_attributes), VIDEOS: _NoVideos(), "__module__": kind.__module__}
    return type(kind.__name__, (kind,), members)


class _NoVideos:
    """Stands for the part for videos: some processors ask it for their defaults also where there are no videos."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def _first_sentence(error: Exception) -> str:
    line = next((line for line in str(error).splitlines() if line.strip()), repr(error))
    return line.split(". ")[0].rstrip(".")
