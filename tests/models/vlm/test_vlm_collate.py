"""Batches against those of TRL's collator, which renders and tokenises every conversation."""

import logging
from pathlib import Path

import pytest
import torch
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.pixelmaps import image_settings
from nuvlm.models.vlm.collate import EventCollator
from nuvlm.models.vlm.dataset import conversations
from nuvlm.models.vlm.model import load_processor
from nuvlm.models.vlm.prompts import prompts_for
from nuvlm.models.vlm.rationales import load_rationales
from nuvlm.models.vlm.training import Job
from tiny_models import make_mllama, make_tiny


@pytest.mark.parametrize("family", ["mllama", "idefics3"])
def test_batches_are_those_of_trl(family: str, grounded: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if family == "mllama":
        make_mllama(tmp_path / "model", grounded.base)  # four tiles
    else:
        make_tiny("idefics3", tmp_path / "model")
    processor = load_processor(tmp_path / "model")
    assert grounded.vocabulary is not None
    background = grounded.settings.background
    prompts = prompts_for(grounded.prompts, image_settings(grounded.stores), background)
    words = load_rationales(grounded.vocabulary)
    rows = conversations(read_events(grounded.events), grounded.stores, prompts, words, background=background)
    reference = DataCollatorForVisionLanguageModeling(processor, assistant_only_loss=True)
    collate = EventCollator(processor)
    with caplog.at_level(logging.INFO):
        for batch in ([0, 5], [1, 2, 3], [5], [6, 5, 7, 8]):  # of different lengths; 5 has no rationale
            chosen = [rows[i] for i in batch]
            expected = reference([rows[i] for i in batch])
            found = collate(chosen)
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                assert torch.equal(found[name], value), name
                assert found[name].dtype == value.dtype
    assert "TRL's collator" not in caplog.text
