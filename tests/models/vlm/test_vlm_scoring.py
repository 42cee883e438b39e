"""Scores of the answers: teacher forcing against beam search and against the plain forward pass."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import MllamaForConditionalGeneration, MllamaProcessor

from nuvlm.base.errors import InputError
from nuvlm.models.vlm.dataset import to_pictures
from nuvlm.models.vlm.model import load_model, load_processor
from nuvlm.models.vlm.prompts import AnswerTokens, Prompts, answer_tokens, conversation, load_prompts
from nuvlm.models.vlm.scoring import Encoder, LabelScores, beam, encode, score
from nuvlm.models.vlm.shapes import draw_scene
from nuvlm.models.vlm_head.network import BATCH_KEY

CPU = torch.device("cpu")
LABELS = {
    "published": (" NuE CC", " NuMu CC", " Neutral Current"),
    "of one first token, and of different lengths": (" NC nue", " NC numu CC with a long track", " NC"),
}


@pytest.fixture(scope="module")
def model(base: Path) -> MllamaForConditionalGeneration:
    return load_model(base, "nf4", bf16=False, device_map={"": "cpu"}).eval()


@pytest.fixture(scope="module")
def processor(base: Path) -> MllamaProcessor:
    return load_processor(base)


@pytest.fixture(scope="module")
def pictures() -> list[Any]:
    rng = np.random.default_rng(11)
    return [to_pictures(draw_scene(rng, 56)[0], "black") for _ in range(5)]


@pytest.fixture(params=list(LABELS))
def prompts(request: pytest.FixtureRequest, prompts_file: Path) -> Prompts:
    plain = load_prompts(prompts_file)
    return plain.model_copy(update={"labels": dict(zip(plain.labels, LABELS[request.param], strict=True))})


def test_events_of_one_batch_are_alike(processor: MllamaProcessor, prompts_file: Path, pictures: list[Any]) -> None:
    class Talkative:
        """A processor that writes more about bright pictures than about dark ones."""

        def __getattr__(self, name: str) -> Any:
            return getattr(processor, name)

        def __call__(self, *, images: list[Any], text: list[str], **options: Any) -> Any:
            more = [" bright" * int(np.asarray(views[0]).any()) for views in images]
            return processor(images=images, text=[a + b for a, b in zip(text, more, strict=True)], **options)

    prompts = load_prompts(prompts_file)
    black = to_pictures(np.zeros((2, 56, 56), np.uint8), "black")
    encode: Any = Encoder(Talkative(), prompts)  # type: ignore[arg-type]
    encode._first = {((56, 56), (56, 56)): ({}, False)}  # not text and pictures apart
    assert len(encode([pictures[0], pictures[1]])["input_ids"]) == 2
    with pytest.raises(InputError, match=r"inputs of different lengths .* Set vlm.classify.batch_size to 1"):
        encode([pictures[0], black])
    encode = Encoder(Talkative(), prompts, batch_key=BATCH_KEY)  # type: ignore[arg-type]
    encode._first = {((56, 56), (56, 56)): ({}, False)}
    with pytest.raises(InputError, match=r"Set vlm_head.recipe.batch_size and vlm_head.classify_batch_size to 1"):
        encode([pictures[0], black])
    with pytest.raises(ValueError, match="different sizes in one batch"):
        Encoder(processor, prompts)([pictures[0], [picture.resize((28, 28)) for picture in black]])


def by_hand(
    model: Any, processor: Any, prompts: Prompts, answers: AnswerTokens, pictures: list[Any], rationale: str | None
) -> LabelScores:
    """The slow reference: each event with each whole answer, one at a time, as training reads it, without a cache.

    With a `rationale` the answer goes on with it, and what counts ends before.
    """
    joint, first, two = np.zeros((3, len(pictures), 3))
    for i, views in enumerate(pictures):
        for k, name in enumerate(prompts.labels):
            text = processor.apply_chat_template(
                conversation(prompts, len(views), prompts.answer(name, rationale)), tokenize=False
            )
            inputs = processor(images=[views], text=[text], add_special_tokens=False, return_tensors="pt")
            label = answers.labels[k]
            begin = inputs["input_ids"].shape[1] - len(label)
            if rationale is not None:
                begin -= len(processor.tokenizer(f" {rationale}<|eot_id|>", add_special_tokens=False)["input_ids"])
            assert tuple(inputs["input_ids"][0, begin : begin + len(label)].tolist()) == label
            with torch.inference_mode():
                logp = model(**inputs, use_cache=False).logits[0].log_softmax(-1)
            result = [logp[begin - 1 + j, token].item() for j, token in enumerate(label)]
            joint[i, k], first[i, k], two[i, k] = sum(result), result[0], sum(result[:2])
    return LabelScores(joint, first, two)


@pytest.mark.parametrize("rationale", [None, "The longest track is 120 cm long. It has 3 ends."])
def test_teacher_forcing_and_beams_agree_with_the_plain_pass(
    model: Any, processor: Any, prompts: Prompts, pictures: list[Any], rationale: str | None
) -> None:
    answers = answer_tokens(processor.tokenizer, prompts, separated=rationale is not None)
    expected = by_hand(model, processor, prompts, answers, pictures, rationale)
    inputs = encode(processor, prompts, pictures, CPU)
    for method in (score, beam):
        found = method(model, dict(inputs), answers)
        np.testing.assert_allclose(found, expected, atol=2e-4)
        assert np.array_equal(found.joint.argmax(axis=1), expected.joint.argmax(axis=1))


def test_scores_do_not_depend_on_the_batch(model: Any, processor: Any, prompts_file: Path, pictures: list[Any]) -> None:
    prompts = load_prompts(prompts_file)
    answers = answer_tokens(processor.tokenizer, prompts)
    together = score(model, encode(processor, prompts, pictures, CPU), answers).joint
    alone = np.concatenate([score(model, encode(processor, prompts, [p], CPU), answers).joint for p in pictures])
    np.testing.assert_allclose(together, alone, atol=2e-4)


def test_both_views_reach_the_answer(model: Any, processor: Any, prompts_file: Path, pictures: list[Any]) -> None:
    """Closed gates, or text between the images, would leave the answer blind to one view or both."""
    prompts = load_prompts(prompts_file)
    answers = answer_tokens(processor.tokenizer, prompts)
    (xz, yz), (other, _) = pictures[0], pictures[1]
    scores = score(model, encode(processor, prompts, [[xz, yz], [other, yz], [xz, other]], CPU), answers).joint
    assert np.abs(scores[1] - scores[0]).max() > 1e-3
    assert np.abs(scores[2] - scores[0]).max() > 1e-3


def test_what_is_encoded_once_is_what_the_processor_makes_of_each_event(
    processor: Any, prompts_file: Path, pictures: list[Any]
) -> None:
    prompts = load_prompts(prompts_file)
    encode_all = Encoder(processor, prompts)
    opening = processor.apply_chat_template(conversation(prompts, 2), add_generation_prompt=True, tokenize=False)
    for events in (pictures[:3], pictures[3:], [[view.resize((28, 28)) for view in views] for views in pictures]):
        text = [opening + prompts.prefix] * len(events)
        expected = processor(images=events, text=text, add_special_tokens=False, return_tensors="pt")
        found = encode_all(events)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value), name
