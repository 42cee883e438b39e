"""The texts, their checks, and how the conversation becomes tokens."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase

from nuvlm.base.errors import InputError
from nuvlm.models.vlm.model import load_processor
from nuvlm.models.vlm.prompts import (
    AnswerTokens,
    Prompts,
    answer_tokens,
    check_views,
    conversation,
    load_prompts,
    permuted,
    require_distinct_labels,
)


@pytest.fixture(scope="module")
def prompts(prompts_file: Path) -> Prompts:
    return load_prompts(prompts_file)


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> PreTrainedTokenizerBase:
    return load_processor(base).tokenizer


def test_answer_tokens_spell_the_answers(prompts: Prompts, tokenizer: PreTrainedTokenizerBase) -> None:
    answers = answer_tokens(tokenizer, prompts)
    said = [tokenizer.decode([*answers.prefix, *label]) for label in answers.labels]
    assert said == [
        "I classify the pixel maps as NuE CC<|eot_id|>",
        "I classify the pixel maps as NuMu CC<|eot_id|>",
        "I classify the pixel maps as Neutral Current<|eot_id|>",
    ]
    require_distinct_labels(answers, prompts.labels, "two_tokens")


def test_a_separator_ends_the_labels_where_rationales_follow(
    prompts: Prompts, tokenizer: PreTrainedTokenizerBase
) -> None:
    answers = answer_tokens(tokenizer, prompts, separated=True)
    assert tokenizer.decode([answers.end]) == "."
    for name, label in zip(prompts.labels, answers.labels, strict=True):
        assert tokenizer.decode([*answers.prefix, *label]) == prompts.answer(name, "")
        whole = tokenizer(prompts.answer(name, "The longest track is short."), add_special_tokens=False)["input_ids"]
        found = [*answers.prefix, *label]
        assert whole[: len(found)] == found, "the same tokens, whatever follows"
    for change in ({"labels": prompts.labels | {"nc": " N.C"}}, {"prefix": "No. I classify as"}):
        with pytest.raises(InputError, match=r"contains '\.', which ends the label"):
            answer_tokens(tokenizer, prompts.model_copy(update=change), separated=True)


@pytest.mark.parametrize("labels", [(" NC one", " NC two", " other"), (" ν_e CC", " ν_μ CC", " NC")])
def test_labels_that_begin_alike_are_refused(
    prompts: Prompts, tokenizer: PreTrainedTokenizerBase, labels: tuple[str, str, str]
) -> None:
    alike = prompts.model_copy(update={"labels": dict(zip(prompts.labels, labels, strict=True))})
    answers = answer_tokens(tokenizer, alike)
    with pytest.raises(InputError, match=f"{labels[0]}.*{labels[1]}.*decision: two_tokens or joint"):
        require_distinct_labels(answers, alike.labels, "first_token")
    require_distinct_labels(answers, alike.labels, "joint")


def test_two_tokens_tell_labels_apart_that_one_does_not(prompts: Prompts) -> None:
    answers = AnswerTokens(prefix=(1,), labels=((5, 6, 9), (5, 7, 9), (8, 9)))
    require_distinct_labels(answers, prompts.labels, "two_tokens")
    alike = AnswerTokens(prefix=(1,), labels=((5, 6, 7, 9), (5, 6, 8, 9), (8, 9)))
    with pytest.raises(InputError, match=r"begin with the same tokens, so decision: two_tokens .* or decision: joint"):
        require_distinct_labels(alike, prompts.labels, "two_tokens")


def test_texts_of_the_background_are_inserted_and_checked(prompts: Prompts) -> None:
    values = prompts.model_dump(by_alias=True) | {"system": "{features} {background}", "centre": {}}
    values["background"] = {"black": "Charge is bright.", "white": "Charge is dark."}
    both = Prompts.model_validate(values)
    assert both.about(None, "white").system.endswith("Charge is dark.")
    assert both.about(None, "black").system.endswith("Charge is bright.")
    for change, message in (
        ({"background": {"black": "Charge is bright."}}, r"background names \['black'\]: give one for each of"),
        ({"system": "{features}"}, "must contain {background} once"),
        ({"background": {}}, "contains {background}, but there are no texts"),
    ):
        with pytest.raises(ValidationError, match=message):
            Prompts.model_validate(values | change)


def test_images_stand_side_by_side_ahead_of_the_question(prompts: Prompts, base: Path) -> None:
    processor = load_processor(base)
    text = processor.apply_chat_template(conversation(prompts, 2), add_generation_prompt=True, tokenize=False)
    assert text.count("<|begin_of_text|>") == 1
    assert text.startswith("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are")
    assert f"<|end_header_id|>\n\n<|image|><|image|>{prompts.user}<|eot_id|>" in text
    assert text.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
    three = processor.apply_chat_template(conversation(prompts, 3), add_generation_prompt=True, tokenize=False)
    assert three.replace("<|image|>" * 3, "<|image|>" * 2) == text


def test_permuted_texts_say_the_same_in_another_order(prompts: Prompts) -> None:
    other = permuted(prompts)
    assert sorted(other.system.splitlines()) == sorted(prompts.system.splitlines())
    assert list(prompts.features) == ["nue_cc", "numu_cc", "nc"]
    assert list(other.features) == ["numu_cc", "nc", "nue_cc"]
    for texts in (prompts, other):
        places = [texts.system.index(features) for features in texts.features.values()]
        assert places == sorted(places)
    assert (other.user, other.prefix, other.labels) == (prompts.user, prompts.prefix, prompts.labels)


def test_texts_about_other_views_are_refused(prompts: Prompts, prompts_file: Path) -> None:
    check_views(prompts_file, prompts, ["xz", "yz"])
    for views in (["yz", "xz"], ["xz"], ["xz", "yz", "xy"]):
        with pytest.raises(InputError, match=r"prompts\.yaml: its texts speak of the views xz, yz"):
            check_views(prompts_file, prompts, views)
    check_views(prompts_file, prompts.model_copy(update={"views": None}), ["u", "v", "z"])


def test_image_token_is_the_first_beyond_the_text_vocabulary(base: Path) -> None:
    """As in the published model; the output layer has no row for it."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base)
    assert load_processor(base).image_token_id == config.image_token_index == config.text_config.vocab_size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"nue_cc": " a", "numu_cc": " b"}}, "labels names"),
        ({"labels": {"nue_cc": " a", "numu_cc": " a", "nc": " b"}}, "two classes share a label"),
        ({"labels": {"nue_cc": "a", "numu_cc": " b", "nc": " c"}}, "must begin with a space"),
        ({"prefix": ""}, "prefix: "),
        ({"features": {"nue_cc": "a shower"}}, "features names"),
        ({"system": "Classify."}, "system must contain"),
        ({"sistem": "x"}, "sistem: "),
    ],
)
def test_unusable_prompts_name_file_and_key(
    prompts_file: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(prompts_file.read_text()) | change))
    with pytest.raises(InputError, match=message) as error:
        load_prompts(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"labels: [", b"\xff\xfe\x00", b"just text"])
def test_unreadable_prompts_name_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=str(path)):
        load_prompts(path)
