"""Chat templates that fail or read their input in another way: used as they are meant, or refused
with what helps.
"""

import copy

import pytest

from interp.errors import OptionError, PromptError
from interp.prompts import encode
from interp.prompts.template import (
    TemplateOptions,
    reads_clock,
    render_conversation,
    with_template_options,
)
from interp.prompts.tokens import CONTENT
from tests import tiny

PARTS = (
    "{% for m in messages %}<|{{ m.role }}|>{% for c in m.content %}{{ c.text }}{% endfor"
    " %}<|end|>{% endfor %}"
)
FIRST = "{% for m in messages %}<|{{ m.role }}|>{{ m.content[0].text }}<|end|>{% endfor %}"
TYPED = PARTS.replace("{{ c.text }}", "{% if c.type == 'text' %}{{ c.text }}{% endif %}")
STRICT = (
    "{% if messages[0].content is string %}{{ raise_exception('parts, please') }}{% endif %}"
    + PARTS
)
PLAIN = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"


def tokenizer(template):
    made = copy.deepcopy(tiny.tokenizer())
    made.chat_template = template
    return made


@pytest.mark.parametrize("template", [PARTS, FIRST, TYPED, STRICT])
def test_a_template_that_wants_parts_gets_them(template):
    parts, plain = tokenizer(template), tokenizer(PLAIN)
    coded = encode(parts, "open the door")
    assert coded == encode(plain, "open the door")
    assert sum(role == CONTENT for role in coded.roles) == len(
        plain("open the door", add_special_tokens=False).input_ids
    )
    # with a system message, and in whole conversations
    said = TemplateOptions("paint")
    assert encode(with_template_options(parts, said, "m"), "open") == encode(
        with_template_options(plain, said, "m"), "open"
    )
    messages = [{"role": "user", "content": "open"}, {"role": "assistant", "content": "close"}]
    assert render_conversation(parts, messages) == render_conversation(plain, messages)


def test_a_template_that_reads_both_gets_text():
    both = tokenizer(
        "{% for m in messages %}{% if m.content is string %}text {{ m.content }}{% else %}parts "
        "{{ m.content[0].text }}{% endif %}{% endfor %}"
    )
    assert both.decode(encode(both, "open").ids) == "text open"
    # and another template of the same tokenizer is looked at anew
    both.chat_template = PARTS
    assert encode(both, "open") == encode(tokenizer(PLAIN), "open")


@pytest.mark.parametrize(
    ("template", "remedy"),
    [
        (
            "{% for m in messages %}{{ m.content ",
            r"correct the template in the tokenizer's directory$",
        ),
        (
            {"chat": PLAIN, "tool_use": PARTS},
            r"templates \(chat, tool_use\) with --template-arg chat_template=chat$",
        ),
        (
            "{{ tools | length }}" + PLAIN,
            r"supply the missing input with --system or --template-arg",
        ),
        (
            "{{ raise_exception('a system message') }}",
            r"supply the missing input with --system or --template-arg",
        ),
    ],
)
def test_a_template_that_fails_for_every_prompt_is_told_with_what_helps(template, remedy):
    with pytest.raises(PromptError, match=remedy):
        encode(tokenizer(template), "open the door")


def test_one_of_several_templates_is_chosen_by_name():
    several = tokenizer({"chat": PLAIN, "tool_use": PARTS.replace("<|end|>", "")})
    for name, alone in several.chat_template.items():
        chosen = with_template_options(
            several, TemplateOptions(None, (("chat_template", name),)), "m"
        )
        assert encode(chosen, "open the door") == encode(tokenizer(alone), "open the door")
        assert not reads_clock(chosen)
    with pytest.raises(OptionError, match="is set by interp itself"):
        with_template_options(several, TemplateOptions(None, (("chat_template", "none"),)), "m")
    with pytest.raises(OptionError, match="is set by interp itself"):
        with_template_options(
            tokenizer(PLAIN), TemplateOptions(None, (("chat_template", "chat"),)), "m"
        )
    dated = tokenizer({"chat": PLAIN, "dated": "{{ strftime_now('%Y') }}" + PLAIN})
    assert reads_clock(
        with_template_options(dated, TemplateOptions(None, (("chat_template", "dated"),)), "m")
    )
