"""Chat formats, learnt from a model's published template and rewritten for training.

Published templates do not mark what the assistant says, which is what training learns, and some accept no system
message. A conversation with known texts is rendered with the published template; what stands between the texts is the
format, and goes into a template of the same format with ``{% generation %}`` around the answer. A template with such
marks is used as it is, and a model without a template gets a plain format.
"""

import json
import re
from dataclasses import asdict, dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase, ProcessorMixin

TEXTS = ("SYSTEMTEXT", "QUESTIONTEXT", "ANSWERTEXT", "SECONDQUESTIONTEXT", "SECONDANSWERTEXT")
"""Stand for the texts of a conversation; words, as some templates trim white space."""
MARK = re.compile(r"{%-?\s*generation\b")
TEMPLATE = """\
{%- macro said(content) -%}
    {%- if content is string -%}{{- content -}}
    {%- else -%}{%- for block in content if block.type == "text" -%}{{- block.text -}}{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- macro shown(content) -%}
    {%- if content is not string -%}
        {%- for block in content if block.type == "image" -%}{{- IMAGE -}}{%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{{- OPENING -}}
{%- for message in messages -%}
    {%- if message.role == "assistant" -%}
        {{- ANSWER if loop.index0 < 3 else LATER_ANSWER -}}
        {%- generation -%}{{- said(message.content) + END -}}{%- endgeneration -%}
        {%- if loop.last -%}{{- CLOSING -}}{%- endif -%}
    {%- elif loop.index0 < 2 and message.role != "system" -%}
        {{- BEFORE_IMAGES + shown(message.content) + BEFORE_QUESTION + said(message.content) -}}
    {%- elif message.role == "system" -%}
        {{- said(message.content) -}}
    {%- else -%}
        {{- LATER_QUESTION + shown(message.content) + said(message.content) -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- ANSWER if messages | length < 3 else LATER_ANSWER -}}{%- endif -%}
"""


class TemplateRefusedError(ValueError):
    """A format that conversations about events do not fit in; the message gives the reason."""


@dataclass(frozen=True)
class Format:
    """What stands around the texts and images of a conversation."""

    opening: str
    """Before the system message."""
    before_images: str
    image: str
    """The placeholder of one image."""
    before_question: str
    answer: str
    """Between the question and its answer."""
    end: str
    """The token that ends an answer."""
    closing: str
    """After the last answer and its end."""
    later_question: str
    """Between the end of an answer and another question."""
    later_answer: str

    def template(self) -> str:
        """The format as a Jinja template that marks the answers."""
        values = {name.upper(): json.dumps(value, ensure_ascii=False) for name, value in asdict(self).items()}
        return "".join(f"{{%- set {name} = {value} -%}}\n" for name, value in values.items()) + TEMPLATE


def adapt_template(processor: ProcessorMixin) -> None:
    """Give the processor a template that marks the answers, and its tokenizer the end token of an answer.

    Raises:
        TemplateRefusedError: the published format does not fit.
    """
    published = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)
    if isinstance(published, dict):
        published = published.get("default")
    found = plain_format(processor) if published is None else learn_format(processor, published)
    if published is None or not MARK.search(published):
        processor.chat_template = found.template()
    processor.tokenizer.eos_token = found.end


def plain_format(processor: ProcessorMixin) -> Format:
    """A format for models without a template, which know none: texts and images, one after the other."""
    image = getattr(processor, "image_token", None)
    end = processor.tokenizer.eos_token
    if not isinstance(image, str) or end is None:
        raise TemplateRefusedError("it has no chat template, and no token for images or none that ends a text")
    return Format(
        opening=processor.tokenizer.bos_token or "",
        before_images="\n",
        image=image,
        before_question="\n",
        answer="\n",
        end=end,
        closing="",
        later_question="\n",
        later_answer="\n",
    )


def learn_format(processor: ProcessorMixin, template: str) -> Format:
    """The format of a template, from conversations that it renders.

    Raises:
        TemplateRefusedError: it cannot be learnt.
    """
    system, question, answer, second, last = TEXTS
    problem = ""
    for own_message in (True, False):  # the system message, or its text at the beginning of the user's turn

        def render(images: int, own_message: bool = own_message) -> str:
            content = [{"type": "image"}] * images + [_text(question)]
            messages = [{"role": "system", "content": [_text(system)]}, {"role": "user", "content": content}]
            if not own_message:
                messages = [{"role": "user", "content": [_text(system + "\n\n"), *content]}]
            messages += [
                {"role": "assistant", "content": [_text(answer)]},
                {"role": "user", "content": [_text(second)]},
                {"role": "assistant", "content": [_text(last)]},
            ]
            return str(processor.apply_chat_template(messages, chat_template=template, tokenize=False))

        try:
            parts = [_parts(render(images)) for images in (1, 2, 3)]
            before, image, after = _repeated([found[1] for found in parts])
            opening, _, between, ended, later_answer, closing = parts[0]
        except (TemplateError, TemplateRefusedError, TypeError, KeyError) as error:
            problem = problem or str(error)
            continue
        end, closing = _ending(processor.tokenizer, closing)
        stripped = ended.lstrip(" ")
        return Format(
            opening=opening,
            before_images=before,
            image=image,
            before_question=after,
            answer=between,
            end=end,
            closing=closing,
            later_question=stripped.removeprefix(end) if stripped.startswith(end) else ended,
            later_answer=later_answer,
        )
    raise TemplateRefusedError(f"its chat template does not render a system message, images and answers ({problem})")


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _parts(rendered: str) -> list[str]:
    """What stands before, between and after the texts."""
    parts = []
    for text in TEXTS:
        before, found, rendered = rendered.partition(text)
        if not found:
            raise TemplateRefusedError(f"{text} is missing or in another place")
        parts.append(before)
    return [*parts, rendered]


def _repeated(rendered: list[str]) -> tuple[str, str, str]:
    """(before, image, after) of which the strings have one, two and three images.

    Raises:
        TemplateRefusedError: the images are not one repeated string, as where they are numbered.
    """
    one, two, three = rendered
    length = len(two) - len(one)
    same = next((i for i, pair in enumerate(zip(one, two, strict=False)) if len(set(pair)) > 1), len(one))
    begin = max(same - length, 0)
    before, image, after = one[:begin], one[begin : begin + length], one[begin + length :]
    if not image or [before + n * image + after for n in (1, 2, 3)] != [one, two, three]:
        raise TemplateRefusedError("images are missing or are not one repeated placeholder")
    return before, image, after


def _ending(tokenizer: PreTrainedTokenizerBase, closing: str) -> tuple[str, str]:
    """The token that ends an answer, and what follows it, from what follows the last answer."""
    text = closing.lstrip(" ")
    special = [*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens]
    for token in sorted(special, key=len, reverse=True):
        if text.startswith(token):
            return token, text.removeprefix(token)
    if tokenizer.eos_token is None:
        raise TemplateRefusedError(f"no token ends an answer: it is followed by {closing!r}")
    return str(tokenizer.eos_token), closing
