"""Fine-tuning jobs of the very small Mllama and data set of the folder above."""

from pathlib import Path

import pytest

from nuvlm.models.vlm.settings import FinetuneSettings, LoraSettings
from nuvlm.models.vlm.training import Job, finetune
from paths import REPOSITORY

PROMPTS = REPOSITORY / "resources" / "prompts.yaml"
VOCABULARY = REPOSITORY / "resources" / "rationales.yaml"
CHAT_TEMPLATE = REPOSITORY / "resources" / "chat_templates" / "mllama.jinja"


@pytest.fixture(scope="session")
def prompts_file() -> Path:
    return PROMPTS


@pytest.fixture(scope="session")
def vocabulary_file() -> Path:
    return VOCABULARY


@pytest.fixture(scope="session")
def chat_template() -> Path:
    return CHAT_TEMPLATE


@pytest.fixture
def grounded(job: Job) -> Job:
    """The same job, with answers that go on with a rationale."""
    return ground(job)


@pytest.fixture(scope="module")
def fluent(base: Path, dataset: tuple[Path, dict[str, Path]], tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished fine-tuning with rationales, long enough for the model to speak in their words."""
    job = ground(make_job(base, dataset, tmp_path_factory.mktemp("fluent")))
    settings = job.settings.model_copy(update={"epochs": 30.0, "device_batch_size": 12, "global_batch_size": 12})
    job = job.model_copy(update={"settings": settings})
    finetune(job)
    return job


@pytest.fixture(scope="module")
def tuned_briefly(base: Path, dataset: tuple[Path, dict[str, Path]], tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A short fine-tuning with rationales."""
    job = ground(make_job(base, dataset, tmp_path_factory.mktemp("tuned_briefly")))
    job = job.model_copy(update={"settings": job.settings.model_copy(update={"epochs": 2.0})})
    finetune(job)
    return job


def ground(job: Job) -> Job:
    settings = job.settings.model_copy(update={"rationales": "grounded"})
    return job.model_copy(update={"settings": settings, "vocabulary": VOCABULARY})


@pytest.fixture
def job(base: Path, dataset: tuple[Path, dict[str, Path]], tmp_path: Path) -> Job:
    """A fine-tuning job of a few steps: nf4, LoRA, checkpoints every four steps."""
    return make_job(base, dataset, tmp_path)


def make_job(base: Path, dataset: tuple[Path, dict[str, Path]], folder: Path) -> Job:
    events, stores = dataset
    return Job(
        base=base,
        events=events,
        stores=stores,
        out=folder / "adapter",
        checkpoints=folder / "checkpoints",
        tensorboard=folder / "tensorboard",
        prompts=PROMPTS,
        settings=FinetuneSettings(
            processes=1, gpus=0, workers=0, bf16=False, gradient_checkpointing=False, epochs=4, global_batch_size=6,
            device_batch_size=6, learning_rate=5e-3, save_steps=4, logging_steps=2, lora=LoraSettings(dropout=0.05),
        ),
    )  # fmt: skip
