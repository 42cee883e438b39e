"""Settings of the language model that answers with a linear head."""

from typing import ClassVar

from nuvlm.base.settings import FilePath
from nuvlm.models.classifier.settings import TrainingSettings
from nuvlm.models.head.settings import HeadFamilySettings, HeadSettings
from nuvlm.models.jobs import Request
from nuvlm.models.vlm.settings import LoraSettings


class _VlmHead(HeadSettings):
    lora: LoraSettings = LoraSettings()


class VlmHeadTrainSettings(_VlmHead, TrainingSettings):
    """Settings of the training job."""

    section: ClassVar[str] = "vlm_head"
    recipe_key: ClassVar[str] = "vlm_head.recipe"


class VlmHeadSettings(_VlmHead, HeadFamilySettings):
    """The language model reads the prompt with the pictures; a linear head on its last hidden state answers."""

    training_settings: ClassVar[type[TrainingSettings]] = VlmHeadTrainSettings
    enabled: bool = False
    """Whether a run has the model."""
    prompts: FilePath | None = None
    """Texts of the conversation, up to the start of the answer; null: those of the language model (`vlm.prompts`)."""

    @property
    def inputs(self) -> dict[str, str]:
        assert self.prompts is not None, "the whole configuration sets it, as a section does not know the others"
        return super().inputs | {"prompts": self.prompts}

    def explanation(self) -> Request:
        # The language model takes more memory for a picture than the tower.
        return self._inference("explain", {"batch_size": self.classify_batch_size})
