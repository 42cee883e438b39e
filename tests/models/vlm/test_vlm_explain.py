"""From a fine-tuned adapter to a table of rationales and claims."""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from nuvlm.base.classes import CLASSES
from nuvlm.dataset.pixelmaps import image_settings
from nuvlm.models.head.cells import cell_pixels
from nuvlm.models.predictions import read_predictions
from nuvlm.models.vlm.classify import classify_vlm
from nuvlm.models.vlm.dataset import to_pictures
from nuvlm.models.vlm.explain import explain_vlm
from nuvlm.models.vlm.model import load_processor
from nuvlm.models.vlm.prompts import answer_tokens, conversation, prompts_for
from nuvlm.models.vlm.rationales import CLAIM_TYPES, load_rationales
from nuvlm.models.vlm.scoring import encode, plain_scores
from nuvlm.models.vlm.settings import ClassifySettings, ExplainSettings, FinetuneSettings
from nuvlm.models.vlm.training import Job, finetune
from stores import read_pixel_maps
from tiny_models import make_tiny

pytestmark = pytest.mark.slow

COLUMNS = ["event_id", "shard", "row", "class", "predicted", "chosen", "picture", "rationale"]
COLUMNS += [f"{kind}_{name}" for kind in ("claim", "true") for name in CLAIM_TYPES]


def classified(job: Job, folder: Path) -> Path:
    """The predictions of the part."""
    out = folder / "predictions.parquet"
    classify_vlm(
        job.base, job.out, job.events, job.stores, {"nominal": out}, part=0, prompts=job.prompts,
        settings=ClassifySettings(gpus=0), quantization="nf4", bf16=False,
    )  # fmt: skip
    return out


def explain(job: Job, out: Path, count: int = 100, vocabulary: Path | None = None, **settings: int) -> pd.DataFrame:
    predictions = out.with_name("predictions.parquet")
    words = vocabulary or job.vocabulary
    assert words is not None
    explain_vlm(
        job.base, job.out, job.events, job.stores, {"vlm": predictions}, out, part=0, count=count, seed=7,
        condition="nominal", prompts=job.prompts, vocabulary=words, merge_adapter=False, quantization="nf4", bf16=False,
        settings=ExplainSettings.model_validate({"batch_size": 4, "max_new_tokens": 60, **settings}),
    )  # fmt: skip
    return pd.read_parquet(out)


@pytest.fixture
def tuned(fluent: Job, tmp_path: Path) -> Job:
    """A model that has learnt to go on with rationales, and its predictions in a folder of the test."""
    classified(fluent, tmp_path)
    return fluent


def test_table_has_the_rationales_under_every_picture(
    tuned: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="nuvlm"):
        table = explain(tuned, tmp_path / "0.parquet")
    assert table.columns.tolist() == [*COLUMNS, "seconds"]
    events = pd.read_parquet(tuned.events)
    events = events[events["split"] == "test"].set_index(["shard", "event_id"])
    table = table.set_index(["shard", "event_id"])
    assert sorted(table[table["picture"] == "nominal"].index) == sorted(events.index)
    assert (table["chosen"] == "sample").all()
    assert f"{len(events)} events in" in caplog.text
    said = read_predictions([tmp_path / "predictions.parquet"]).set_index(["shard", "event_id"])["predicted"]
    assert (table["predicted"] == said.loc[table.index].to_numpy()).all()
    pictures = table.groupby(level=[0, 1])["picture"].apply(list)
    assert all(found == ["nominal", "text_only"] for found in pictures)
    black = table[table["picture"] == "text_only"].groupby("predicted")["rationale"]
    assert (black.nunique() == 1).all(), "nothing is to be seen, so the label alone speaks"
    # what is claimed is what the text says; what is true is what the truth of the event would have said
    words = load_rationales(tuned.vocabulary)
    for identity, row in table.iterrows():
        claims, truth = words.parse(row["rationale"]), words.state(events.loc[identity])
        for name in CLAIM_TYPES:
            for column, value in ((f"claim_{name}", getattr(claims, name)), (f"true_{name}", getattr(truth, name))):
                assert (pd.isna(row[column]) and value is None) or row[column] == pytest.approx(value), column
    assert table.filter(like="claim_").notna().any(axis=1).mean() > 0.5, "rationales are in known words"
    unknown = table.index.get_level_values("event_id") % 6 == 1005 % 6
    assert (table["true_track"].isna() == unknown).all()
    assert (table["seconds"] > 0).all()


def test_saliency_is_what_the_answer_loses_without_a_cell(tuned: Job, tmp_path: Path) -> None:
    from nuvlm.models.vlm.classify import load_finetuned

    table = explain(tuned, tmp_path / "0.parquet", count=8, saliency=True)
    assert table[table["picture"] == "text_only"]["saliency"].isna().all()
    table = table[table["picture"] == "nominal"].reset_index(drop=True)
    cells = [np.array(values).reshape(2, -1) for values in table["saliency"]]
    assert min(values.min() for values in cells) == 0
    model = load_finetuned(tuned.base, tuned.out, "nf4", bf16=False, device=torch.device("cpu"), merge=False)
    processor = load_processor(tuned.base)
    prompts = prompts_for(tuned.prompts, image_settings(tuned.stores), tuned.settings.background)
    answers = answer_tokens(processor.tokenizer, prompts, separated=True)
    event = int(np.argmax([values.max() for values in cells]))
    whole = read_pixel_maps(tuned.stores, table)[event]
    view, cell = np.unravel_index(cells[event].argmax(), cells[event].shape)
    side = cell_pixels(whole.shape[-1])
    row, column = side * np.array(divmod(cell, round(cells[event].shape[1] ** 0.5)))
    hidden = whole.copy()
    hidden[view, row : row + side, column : column + side] = 0
    logp = []
    for views in (whole, hidden):
        inputs = encode(processor, prompts, [to_pictures(views, tuned.settings.background)], model.device)
        scores = [plain_scores(model, inputs, label)[0] for label in answers.labels]
        logp.append(torch.stack(scores, dim=-1).log_softmax(dim=-1).flatten())
    chosen = CLASSES.index(table["predicted"][event])
    assert float(logp[0][chosen] - logp[1][chosen]) == pytest.approx(cells[event].max(), abs=1e-3)
    assert cells[event].max() > 0


def test_rationales_do_not_depend_on_the_batch(tuned: Job, tmp_path: Path) -> None:
    few, many = (explain(tuned, tmp_path / f"{size}.parquet", batch_size=size) for size in (3, 32))
    pd.testing.assert_frame_equal(few.drop(columns="seconds"), many.drop(columns="seconds"))


def test_drawn_rationales_do_not_depend_on_the_batch(tuned: Job, tmp_path: Path) -> None:
    few, many = (
        explain(tuned, tmp_path / f"{size}.parquet", batch_size=size, samples=3).drop(columns="seconds")
        for size in (2, 32)
    )
    pd.testing.assert_frame_equal(few, many)
    greedy = explain(tuned, tmp_path / "greedy.parquet")
    assert (few["rationale"] != greedy["rationale"]).any(), "they are drawn"
    assert few.filter(like="claim_").notna().any(axis=1).mean() > 0.5, "of words that the model finds probable"


def test_a_rationale_is_what_the_model_would_say_token_by_token(tuned: Job, tmp_path: Path) -> None:
    """Greedy, without a cache, an event at a time, by the plain pass."""
    from nuvlm.models.vlm.classify import load_finetuned

    table = explain(tuned, tmp_path / "0.parquet", max_new_tokens=12)
    table = table[table["picture"] == "nominal"].reset_index(drop=True)
    model = load_finetuned(tuned.base, tuned.out, "nf4", bf16=False, device=torch.device("cpu"), merge=False)
    processor, prompts = (
        load_processor(tuned.base),
        prompts_for(tuned.prompts, image_settings(tuned.stores), tuned.settings.background),
    )
    maps = read_pixel_maps(tuned.stores, table)
    for i in (0, 5, 11):
        opening = processor.apply_chat_template(conversation(prompts, 2), add_generation_prompt=True, tokenize=False)
        text = opening + prompts.answer(table["predicted"][i]) + "."
        for _ in range(12):
            inputs = processor(
                images=[to_pictures(maps[i], tuned.settings.background)],
                text=[text],
                add_special_tokens=False,
                return_tensors="pt",
            )
            with torch.inference_mode():
                token = int(model(**inputs, use_cache=False).logits[0, -1].argmax())
            if token == processor.tokenizer.eos_token_id:
                break
            text += processor.tokenizer.decode([token])
        assert text.removeprefix(opening + prompts.answer(table["predicted"][i]) + ".").strip() == table["rationale"][i]


def test_no_event_gives_an_empty_table(tuned: Job, tmp_path: Path) -> None:
    table = explain(tuned, tmp_path / "0.parquet", count=0)
    assert len(table) == 0
    assert table.columns.tolist() == [*COLUMNS, "seconds"]


def test_events_without_truth_and_ready_pixel_maps_are_explained(
    tuned: Job, tmp_path: Path, vocabulary_file: Path
) -> None:
    """Other people's events: no class, no topology, and nothing to take out of the pictures."""
    events = pd.read_parquet(tuned.events)
    empty = events.assign(**{name: pd.Series(pd.NA, index=events.index, dtype="string") for name in ("class", "split")})
    for column in [name for name in events if name.startswith(("track", "shower", "charged", "vertex"))]:
        empty[column] = pd.Series(pd.NA, index=events.index).astype("Float32")
    empty.to_parquet(tmp_path / "events.parquet")
    job = tuned.model_copy(update={"events": tmp_path / "events.parquet"})
    classified(job, tmp_path)
    table = explain(job, tmp_path / "0.parquet", count=6)
    assert sorted(set(table["picture"])) == ["nominal", "text_only"]
    assert len(table) == 12
    assert table.filter(like="true_").isna().all(axis=None)
    assert table.filter(like="claim_").notna().any(axis=None)


def test_a_model_that_ends_with_the_label_is_asked_why(
    job: Job, tmp_path: Path, prompts_file: Path, vocabulary_file: Path
) -> None:
    """As published, and of another family: whatever it says is kept, what can be read of it is read."""
    base = tmp_path / "idefics3"
    make_tiny("idefics3", base)
    settings = FinetuneSettings.model_validate(job.settings.model_dump() | {"epochs": 1.0})
    job = job.model_copy(update={"base": base, "settings": settings})
    finetune(job)
    assert json.loads((job.out / "training.json").read_text())["rationales"] == "none"
    classified(job, tmp_path)
    table = explain(job, tmp_path / "0.parquet", count=4, vocabulary=vocabulary_file, max_new_tokens=8)
    assert len(table) >= 8
    assert table["rationale"].notna().all()
    assert np.isfinite(table["seconds"]).all()
