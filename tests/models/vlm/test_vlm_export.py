"""The exported model, loaded and asked by transformers alone, with the code on its model card."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image

from nuvlm.base.manifest import verify_manifest
from nuvlm.dataset.event_table import read_events
from nuvlm.dataset.pixelmaps import image_settings, read_blocks
from nuvlm.models.vlm.classify import load_finetuned
from nuvlm.models.vlm.dataset import to_pictures
from nuvlm.models.vlm.export import export_vlm
from nuvlm.models.vlm.model import load_model, load_processor
from nuvlm.models.vlm.prompts import answer_tokens, prompts_for
from nuvlm.models.vlm.scoring import encode, score
from nuvlm.models.vlm.training import Job
from paths import REPOSITORY

NOMINAL = {
    "n": 12, "accuracy": 0.75, "accuracy_interval": [0.5, 0.9], "precision": 0.7, "recall": 0.72, "auc": 0.81,
    "ece": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def exported(tuned_briefly: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    scores = folder / "scores.json"
    scores.write_text(json.dumps({"scores": {"vlm": {"nominal": NOMINAL}}, "events": {"test": {"nc": 12}}}))
    job = tuned_briefly
    export_vlm(
        job.base, job.out, scores, folder / "out", prompts=job.prompts,
        card=REPOSITORY / "resources" / "model_card.md.j2", run="trial", data="simulate", settings=job.settings,
    )  # fmt: skip
    return folder / "out"


@pytest.fixture(scope="module")
def expected(tuned_briefly: Job) -> tuple[list[Image.Image], np.ndarray]:
    """Pixel maps of a test event, and the log-probabilities of its answers from the adapter beside the nf4 weights."""
    job, device = tuned_briefly, torch.device("cpu")
    events = read_events(job.events)
    event = events[events["split"] == "test"].head(1)
    _, views = next(iter(read_blocks(job.stores, event, 1)))
    background = job.settings.background
    pictures = to_pictures(views[0], background)
    prompts = prompts_for(job.prompts, image_settings(job.stores), background)
    processor = load_processor(job.base)
    model = load_finetuned(job.base, job.out, "nf4", bf16=False, device=device, merge=False)
    answers = answer_tokens(processor.tokenizer, prompts, separated=True)
    joint = score(model, encode(processor, prompts, [pictures], device), answers).joint
    return to_pictures(views[0], "black"), joint[0]


@pytest.mark.slow
def test_the_code_of_the_card_gives_the_same_scores(
    exported: Path, expected: tuple[list[Image.Image], np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, joint = expected
    verify_manifest(exported / "model")
    assert "quantization_config" not in json.loads((exported / "model" / "config.json").read_text())
    monkeypatch.chdir(tmp_path)
    for name, picture in zip(("xz", "yz"), pictures, strict=True):
        picture.save(f"{name}.png")
    (code,) = re.findall(r"```python\n(.*?)```", (exported / "model" / "README.md").read_text(), flags=re.DOTALL)
    found: dict[str, Any] = {}
    exec(code.replace('folder = "."', f"folder = {str(exported / 'model')!r}"), found)
    assert found["model"].dtype == torch.float32
    np.testing.assert_allclose(found["scores"].numpy(), joint, atol=1e-5)


def test_the_adapter_is_read_by_peft(exported: Path, tuned_briefly: Job) -> None:
    base = load_model(tuned_briefly.base, "nf4", bf16=False, device_map={"": "cpu"})
    tuned = PeftModel.from_pretrained(base, exported / "adapter")
    trained = PeftModel.from_pretrained(
        load_model(tuned_briefly.base, "nf4", bf16=False, device_map={"": "cpu"}), tuned_briefly.out
    )
    for (name, found), (_, wanted) in zip(tuned.named_parameters(), trained.named_parameters(), strict=True):
        assert torch.equal(found, wanted), name


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_the_card_is_filled_from_the_run(exported: Path, kind: str, tuned_briefly: Job) -> None:
    text = (exported / kind / "README.md").read_text()
    training = json.loads((tuned_briefly.out / "training.json").read_text())
    assert f"{training['trainable_parameters']:,}" in text
    assert f"{training['validation_loss']:.4g}" in text
    assert "| nominal | 12 | 0.750 | 0.500 to 0.900 | 0.700 | 0.720 | 0.810 | 0.100 |" in text
    assert "36 for training, 12 for validation, 12 for the test" in text
    assert "| lora | {'r': 8" in text
    assert "{{" not in text
    assert ("library_name: peft" in text) == (kind == "adapter")
