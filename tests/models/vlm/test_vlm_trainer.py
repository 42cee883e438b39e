"""How label and rationale share the loss of an event."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.pixelmaps import image_settings
from nuvlm.models.vlm.dataset import conversations
from nuvlm.models.vlm.model import load_model, load_processor
from nuvlm.models.vlm.prompts import answer_tokens, prompts_for
from nuvlm.models.vlm.rationales import grounded_rationales, load_rationales
from nuvlm.models.vlm.trainer import loss_weights
from nuvlm.models.vlm.training import Job, finetune

DOT = 9


def test_weights_by_hand() -> None:
    labels = torch.tensor(
        [
            [-100, -100, 5, 6, DOT, 1, 2, DOT, 3, 4],  # label of three tokens, rationale of five
            [-100, 5, DOT, 4, -100, -100, -100, -100, -100, -100],  # no rationale, and the end
            [-100, -100, -100, -100, 5, 6, 7, 4, -100, -100],  # no separator at all
        ]
    )
    weights = loss_weights(labels, separator=DOT, rationale=0.25)
    assert weights[0, :2].tolist() == [0, 0]
    assert weights[0, 2:5].tolist() == pytest.approx([8 * 0.75 / 3] * 3)
    assert weights[0, 5:].tolist() == pytest.approx([8 * 0.25 / 5] * 5)
    assert weights[1].tolist() == pytest.approx([0, 1.5, 1.5, 0] + [0] * 6)
    assert weights[2].tolist() == pytest.approx([0] * 4 + [1] * 4 + [0] * 2)


@pytest.mark.slow
def test_losses_are_weighted_means(grounded: Job) -> None:
    """Of a step over tokens, of the validation split over events; against a plain pass over one event at a time."""
    # One step, with all events, that changes nothing.
    still = {"learning_rate": 1e-12, "epochs": 1.0, "device_batch_size": 12}
    settings = grounded.settings.model_copy(update=still | {"global_batch_size": 36, "rationale_loss": 0.3})
    job = grounded.model_copy(update={"settings": settings})
    finetune(job)
    found = json.loads((job.out / "training.json").read_text())
    processor, background = load_processor(job.base), job.settings.background
    prompts = prompts_for(job.prompts, image_settings(job.stores), background)
    events = read_events(job.events)
    assert job.vocabulary is not None
    collate = DataCollatorForVisionLanguageModeling(processor, assistant_only_loss=True)
    model = load_model(job.base, "nf4", bf16=False, device_map={"": "cpu"}).eval()
    dot = answer_tokens(processor.tokenizer, prompts, separated=True).end
    means: dict[str, list[float]] = {"train": [], "validation": []}
    tokens: dict[str, list[int]] = {"train": [], "validation": []}
    for split, split_means in means.items():
        chosen = events[events["split"] == split]
        for row in conversations(chosen, job.stores, prompts, load_rationales(job.vocabulary), background=background):
            event = dict(collate([row]))
            labels = event.pop("labels")[0]
            with torch.inference_mode():
                logp = model(**event).logits[0].log_softmax(-1)
            positions = torch.nonzero(labels != -100)[:, 0]
            losses = -logp[positions - 1, labels[positions]]
            first = int(torch.nonzero(labels[positions] == dot)[0]) + 1
            explained = len(losses) > first + 1
            mean = 0.7 * losses[:first].mean() + 0.3 * losses[first:].mean() if explained else losses[:first].mean()
            split_means.append(float(mean))
            tokens[split].append(len(positions))
    assert found["losses"] == [[1, pytest.approx(np.average(means["train"], weights=tokens["train"]), rel=1e-4)]]
    assert found["validation_loss"] == pytest.approx(np.mean(means["validation"]), rel=1e-4)


def test_answers_go_on_with_the_truth(grounded: Job, base: Path) -> None:
    processor, prompts = load_processor(base), prompts_for(grounded.prompts, image_settings(grounded.stores), "black")
    assert grounded.vocabulary is not None
    words, events = load_rationales(grounded.vocabulary), read_events(grounded.events)
    rows = conversations(events, grounded.stores, prompts, words, background="black")
    batch = DataCollatorForVisionLanguageModeling(processor, assistant_only_loss=True)([rows[i] for i in range(6)])
    found = [processor.tokenizer.decode(row[row != -100]) for row in batch["labels"]]
    rationales = grounded_rationales(events[:6], words)
    assert rationales[5] == "", "an event without truth ends with the separator, like all"
    assert all(rationales[:5])
    for text, name, rationale in zip(found, events["class"], rationales, strict=False):
        assert text == prompts.answer(name) + (f". {rationale}" if rationale else ".") + "<|eot_id|>"
    weights = loss_weights(
        batch["labels"], separator=answer_tokens(processor.tokenizer, prompts, separated=True).end, rationale=0.5
    )
    told_tokens = (batch["labels"] != -100).sum(dim=1)
    np.testing.assert_allclose(weights.sum(dim=1), told_tokens, rtol=1e-5)
