"""The jobs of the vision-language model: from what a rule gives to the functions that do the work.

Imported before anything of Hugging Face, so that its libraries ask no server: compute nodes are offline. Only
fetch_base_model needs the network.
"""

import os

from nuvlm.models.jobs import ClassificationJob, ExplanationJob, TrainingJob
from nuvlm.models.vlm.settings import ClassifySettings, ExplainSettings, FinetuneSettings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"


def train(job: TrainingJob) -> None:
    """Fine-tune the model (:func:`nuvlm.models.vlm.training.finetune_vlm`)."""
    from nuvlm.models.vlm.training import Job, finetune_vlm

    finetune_vlm(
        Job(
            base=job.inputs["base"].parent,
            events=job.events,
            stores=dict(job.stores),
            out=job.out,
            checkpoints=job.checkpoints,
            tensorboard=job.tensorboard,
            prompts=job.inputs["prompts"],
            vocabulary=job.inputs.get("vocabulary"),
            deepspeed=job.inputs.get("deepspeed"),
            log=job.log,
            zoom=job.zoom,
            settings=FinetuneSettings(**job.settings),
        )
    )


def classify(job: ClassificationJob) -> None:
    """Classify one part (:func:`nuvlm.models.vlm.classify.classify_vlm`)."""
    from nuvlm.models.vlm.classify import classify_vlm

    classify_vlm(
        job.inputs["base"].parent,
        job.folder,
        job.events,
        job.stores,
        job.outputs,
        part=job.part,
        prompts=job.inputs["prompts"],
        settings=ClassifySettings(**job.settings["settings"]),
        quantization=job.settings["quantization"],
        bf16=job.settings["bf16"],
        zoom=job.zoom,
    )


def explain(job: ExplanationJob) -> None:
    """Explain chosen events of one part (:func:`nuvlm.models.vlm.explain.explain_vlm`)."""
    from nuvlm.models.vlm.explain import explain_vlm

    explain_vlm(
        job.inputs["base"].parent,
        job.folder,
        job.events,
        job.stores,
        job.predictions,
        job.out,
        part=job.part,
        count=job.count,
        seed=job.seed,
        condition=job.condition,
        prompts=job.inputs["prompts"],
        vocabulary=job.inputs["vocabulary"],
        settings=ExplainSettings(**job.settings["settings"]),
        merge_adapter=job.settings["merge_adapter"],
        quantization=job.settings["quantization"],
        bf16=job.settings["bf16"],
        zoom=job.zoom,
    )
