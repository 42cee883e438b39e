"""The texts of the conversation with the vision-language model, and the answers that it may give."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args

import yaml
from pydantic import Field, ValidationError, model_validator
from transformers import PreTrainedTokenizerBase

from nuvlm.base.classes import CLASSES
from nuvlm.base.errors import InputError
from nuvlm.base.settings import Settings
from nuvlm.detector.geometry import CENTRES
from nuvlm.models.vlm.settings import Background

FEATURES = "{features}"
CENTRE = "{centre}"
BACKGROUND = "{background}"
SEPARATOR = "."
"""Ends the label if a rationale may follow."""
Text = Annotated[str, Field(min_length=1)]
Texts = TypeVar("Texts", bound=Settings)


class Prompts(Settings):
    """The texts of a conversation about one event; see resources/prompts.yaml."""

    context: Text = Field(alias="system")
    """The physics context, with the placeholder FEATURES, and CENTRE and BACKGROUND if there are texts for them."""
    centre: dict[str, Text] = Field(default_factory=dict)
    """What the centre of the pixel maps is, for each value of pixelmap.centre; empty if the texts do not say."""
    background: dict[str, Text] = Field(default_factory=dict)
    """How charge looks, for each value of vlm.finetune.background; empty if the texts fit both."""
    features: dict[str, Text]
    """Description of each class, in the order of the prompt."""
    user: Text
    """The question after the images."""
    prefix: Text
    """Start of every answer."""
    labels: dict[str, Text]
    """Class -> the label after the prefix."""
    explain: Text = "Why?"
    """The question that asks a model trained without rationales for its reasons."""
    views: tuple[str, ...] | None = None
    """The views that the texts describe, in order; null if they fit any."""

    @property
    def system(self) -> str:
        """The system message."""
        return self.context.replace(FEATURES, "\n".join(self.features.values()))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.context.count(FEATURES) != 1:
            raise ValueError(f"system must contain {FEATURES} once, where the features of the classes are inserted")
        for key, texts, names, placeholder in (
            ("centre", self.centre, CENTRES, CENTRE),
            ("background", self.background, get_args(Background), BACKGROUND),
        ):
            if texts and set(texts) != set(names):
                raise ValueError(f"{key} names {sorted(texts)}: give one for each of {', '.join(names)}")
            if texts and self.context.count(placeholder) != 1:
                raise ValueError(f"system must contain {placeholder} once, where the text of `{key}` is inserted")
            if not texts and placeholder in self.context:
                raise ValueError(f"system contains {placeholder}, but there are no texts of `{key}` to insert")
        if set(self.features) != set(CLASSES):
            raise ValueError(f"features names {sorted(self.features)}: give one for each of {', '.join(CLASSES)}")
        if set(self.labels) != set(CLASSES):
            raise ValueError(f"labels names {sorted(self.labels)}: give one for each of {', '.join(CLASSES)}, no other")
        if len(set(self.labels.values())) != len(self.labels):
            raise ValueError(f"two classes share a label: {self.labels}")
        for name, label in self.labels.items():
            if not label.startswith(" "):
                raise ValueError(f"the label of {name}, {label!r}, must begin with a space: it follows the prefix")
        return self

    def about(self, centre: str | None, background: Background) -> Self:
        """The texts for pixel maps with this centre: a key of :attr:`centre`, or None, of which nothing is said."""
        lines = self.context.replace(CENTRE, self.centre.get(centre or "", ""))
        lines = lines.replace(BACKGROUND, self.background.get(background, ""))
        return self.model_copy(update={"context": lines, "centre": {}, "background": {}})

    def answer(self, name: str, rationale: str | None = None) -> str:
        """The answer for the class `name`; with a `rationale`, which may be empty, SEPARATOR ends the label."""
        answer = self.prefix + self.labels[name]
        return answer if rationale is None else f"{answer}{SEPARATOR} {rationale}".rstrip()


def load_prompts(path: Path) -> Prompts:
    """Read and check a prompts file.

    Raises:
        InputError: names the file and the key to correct.
    """
    return read_texts(path, Prompts, "resources/prompts.yaml")


def read_texts(path: Path, kind: type[Texts], example: str) -> Texts:
    """Read and check a YAML file of texts; error messages refer to `example`.

    Raises:
        InputError: names the file and the key to correct.
    """
    try:
        return kind.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a readable YAML file ({error}). See {example}.") from error
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, problem['loc'])) or path.stem}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors()
        ]
        raise InputError(f"{path}: mend these keys:\n" + "\n".join(lines)) from None


def prompts_for(path: Path, images: Mapping[str, Any], background: Background, key: str = "vlm.prompts") -> Prompts:
    """The texts about pixel maps with the settings `images` (:func:`nuvlm.dataset.pixelmaps.image_settings`).

    Args:
        background: of the pictures.
        key: of the setting that names the file, for messages.

    Raises:
        InputError: see :func:`load_prompts` and :func:`check_views`.
    """
    prompts = load_prompts(path)
    check_views(path, prompts, images["views"], key)
    return prompts.about(images["centre"], background)


def permuted(prompts: Prompts) -> Prompts:
    """The same texts with the class descriptions rotated by one: every class changes its place."""
    first, *others = prompts.features.items()
    return prompts.model_copy(update={"features": dict([*others, first])})


def check_views(path: Path, prompts: Prompts, views: Sequence[str], key: str = "vlm.prompts") -> None:
    """Refuse texts for views other than those of the pixel maps.

    Raises:
        InputError: names both.
    """
    if prompts.views is not None and prompts.views != tuple(views):
        raise InputError(
            f"{path}: its texts speak of the views {', '.join(prompts.views)}, but the pixel maps have "
            f"{', '.join(views)}. Set {key} to matching texts: with these names under `views`, or "
            "without `views` if they fit any."
        )


def conversation(prompts: Prompts, images: int, answer: str | None = None) -> list[dict[str, Any]]:
    """The messages about one event with the given number of `images`, in TRL's block style, and the `answer` if given.

    The images are adjacent and precede the user's text: in Mllama a token attends only to the last unbroken run of
    image tokens, so text between the images would hide the first views from the answer.
    """
    messages = [
        {"role": "system", "content": [_text(prompts.system)]},
        user_turn(prompts.user, images),
    ]
    if answer is not None:
        messages.append({"role": "assistant", "content": [_text(answer)]})
    return messages


def user_turn(text: str, images: int = 0) -> dict[str, Any]:
    """A user message: the given number of `images`, then the text."""
    return {"role": "user", "content": [{"type": "image"}] * images + [_text(text)]}


@dataclass(frozen=True)
class AnswerTokens:
    """Token ids of the prefix, and of each label with its end token, in the order of CLASSES."""

    prefix: tuple[int, ...]
    labels: tuple[tuple[int, ...], ...]

    @property
    def first(self) -> list[int]:
        return [label[0] for label in self.labels]

    @property
    def end(self) -> int:
        return self.labels[0][-1]


def answer_tokens(tokenizer: PreTrainedTokenizerBase, prompts: Prompts, *, separated: bool = False) -> AnswerTokens:
    """Tokenise the answers as in training, prefix and label together.

    Args:
        tokenizer: its end token ends the answer, see :func:`nuvlm.models.vlm.model.load_processor`.
        separated: whether SEPARATOR ends the label (training with rationales) instead of the end token.

    Raises:
        InputError: a label changes the tokens of the prefix, or the ending occurs in the answer or is merged into a
            longer token.
    """
    prefix = _ids(tokenizer, prompts.prefix)
    ending = SEPARATOR if separated else tokenizer.eos_token
    end = _ids(tokenizer, ending)[-1]
    labels = []
    for name in CLASSES:
        whole = _ids(tokenizer, prompts.answer(name) + ending)
        if whole[: len(prefix)] != prefix:
            raise InputError(
                f"prompts: with the label {prompts.labels[name]!r} of {name} the prefix {prompts.prefix!r} splits into "
                "different tokens. End the prefix with a whole word."
            )
        if whole.count(end) != 1 or whole[-1] != end:
            raise InputError(
                f"prompts: the prefix or the label {prompts.labels[name]!r} of {name} contains {ending!r}, which ends "
                "the label, or merges with it into one token. Choose labels and a prefix without it."
            )
        labels.append(tuple(whole[len(prefix) :]))
    return AnswerTokens(prefix=tuple(prefix), labels=tuple(labels))


DECIDING_TOKENS = {"joint": None, "first_token": 1, "two_tokens": 2}
"""Value of vlm.classify.decision -> number of the label's tokens that decide; None: all."""


def require_distinct_labels(answers: AnswerTokens, labels: Mapping[str, str], decision: str) -> None:
    """Refuse labels that a decision by their first tokens cannot distinguish.

    Args:
        decision: a key of :data:`DECIDING_TOKENS`.

    Raises:
        InputError: names the labels that begin with the same tokens.
    """
    n = DECIDING_TOKENS[decision]
    by_tokens: dict[tuple[int, ...], list[str]] = {}
    for name, tokens in zip(CLASSES, answers.labels, strict=True):
        by_tokens.setdefault(tokens[:n], []).append(repr(labels[name]))
    for shared in by_tokens.values():
        if len(shared) > 1:
            raise InputError(
                f"prompts: the labels {' and '.join(shared)} begin with the same {'token' if n == 1 else 'tokens'}, so "
                f"decision: {decision} cannot distinguish them. Choose labels that begin differently, or decision: "
                f"{'joint' if n == 2 else 'two_tokens or joint'}."
            )


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
