"""Prompts that hold a chat template in words: the model's own, or another family's."""

import copy
from dataclasses import replace

import pytest

from interp.models.pair import Pair
from interp.study import Study
from tests import tiny

ALPACA = "{% for m in messages %}### Instruction:\n{{ m.content }}\n\n### Response:\n{% endfor %}"


def notes(template, text):
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.chat_template = template
    contrast = tiny.contrast(3)
    prompts = [replace(prompt, text=text.format(prompt.text)) for prompt in contrast.positive]
    contrast = replace(contrast, positive=replace(contrast.positive, prompts=tuple(prompts)))
    found = Study(
        Pair.from_modules(tiny.perturbed(tiny.llama()), tiny.llama(), tokenizer), contrast, None
    ).notes
    return [note for note in found if "give only the user's text" in note]


@pytest.mark.parametrize(
    ("template", "text", "said"),
    [
        (
            ALPACA,
            "### Instruction:\n{}\n\n### Response:\n",
            "already contain what the chat template writes before a prompt",
        ),
        (
            "[INST] {{ messages[0].content }} [/INST]",
            "[INST] {} [/INST]",
            "already contain [INST], which the chat template writes",
        ),
        (
            ALPACA,
            "[INST] {} [/INST]",
            r"contain \[INST\], which is chat template markup of other models",
        ),
        (
            tiny.TEMPLATE,
            "<|im_start|>user\n{}<|im_end|>",
            "contain <|im_start|>, which is chat template markup of other",
        ),
        (tiny.TEMPLATE, "<|user|>{}<|end|>", "already contain tokens of the chat template"),
    ],
)
def test_a_template_in_the_prompt_is_told_once(template, text, said):
    (note,) = notes(template, text)
    assert note.startswith("3 of 3 prompts of positive ")
    assert said.replace("\\", "") in note


@pytest.mark.parametrize("template", [ALPACA, tiny.TEMPLATE, None])
def test_plain_prompts_have_no_note(template):
    assert not notes(template, "{}")
    assert template is not None or not notes(template, "[INST] {} [/INST]")
