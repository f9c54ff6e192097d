"""Chat templates: system message, arguments, rendering of turns, and use of the clock."""

import copy
import inspect
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from interp.errors import OptionError
from interp.provenance import JSON

_OPTIONS_ATTRIBUTE, _PARTS_ATTRIBUTE = "interp_template_options", "interp_template_parts"
PLACEHOLDER = "qzxPLACEHOLDERxzq"
"""A placeholder that no template contains."""
TEMPLATE_CHOICE = "chat_template"
"""The transformers argument that selects one of several templates by name."""
_DATE_FORMATS = (
    "%Y-%m-%d",
    "%d %b %Y",
    "%d %B %Y",
    "%b %d, %Y",
    "%B %d, %Y",
    "%d/%m/%Y",
    "%m/%d/%Y",
)


@dataclass(frozen=True)
class TemplateOptions:
    """Inputs of a chat template in addition to the user's prompt: a ``system`` message, and
    ``arguments`` by name.
    """

    system: str | None = None
    arguments: tuple[tuple[str, JSON], ...] = ()

    @property
    def json(self) -> JSON:
        """Both as JSON."""
        return {"system": self.system, "arguments": dict(self.arguments)}

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on these options for readers of the results."""
        system_notes = (
            []
            if self.system is None
            else [f"a system message precedes every prompt: {_shortened(self.system)}"]
        )
        arguments = ", ".join(
            f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in self.arguments
        )
        return (*system_notes, *([f"the chat template is given {arguments}"] if arguments else []))


def template_options(tokenizer: PreTrainedTokenizerBase) -> TemplateOptions:
    """The template options of this tokenizer."""
    return getattr(tokenizer, _OPTIONS_ATTRIBUTE, TemplateOptions())


def with_template_options(
    tokenizer: PreTrainedTokenizerBase, options: TemplateOptions, name: str
) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer with these template options; ``name`` of the model is for messages.

    Raises OptionError if there is no template, or if it fails with or ignores an option.
    """
    if options == template_options(tokenizer):
        return tokenizer
    copied = copy.copy(tokenizer)  # both share the tokenisation itself
    setattr(copied, _OPTIONS_ATTRIBUTE, options)
    if options != TemplateOptions():
        _require_accepted(copied, options, name)
    return copied


def render_turn(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """A user turn with the generation prompt, after the system message if there is one."""
    return _render(tokenizer, template_options(tokenizer), text)


def render_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]
) -> str:
    """A whole conversation unchanged, with the template's arguments."""
    options = template_options(tokenizer)
    conversation = [(message["role"], message["content"]) for message in messages]
    messages_with_parts = _messages(
        conversation, _takes_parts(tokenizer, TemplateOptions(None, options.arguments))
    )
    return cast(
        str,
        tokenizer.apply_chat_template(
            messages_with_parts, tokenize=False, **dict(options.arguments)
        ),
    )


def remedy(tokenizer: PreTrainedTokenizerBase, error: Exception) -> str:
    """Advice for a template that fails for every prompt."""
    # from jinja2, which is not imported here
    if type(error).__name__ == "TemplateSyntaxError":
        return "correct the template in the tokenizer's directory"
    templates = tokenizer.chat_template
    if (
        isinstance(templates, dict)
        and "default" not in templates
        and not dict(template_options(tokenizer).arguments).get(TEMPLATE_CHOICE)
    ):
        names = ", ".join(sorted(templates))
        return (
            f"choose one of its templates ({names}) with --template-arg"
            f" {TEMPLATE_CHOICE}={min(templates)}"
        )
    return (
        "supply the missing input with --system or --template-arg, or change the template in the"
        " tokenizer's directory"
    )


def reads_clock(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template writes the time or the date into a prompt, with its current
    arguments.
    """
    options = template_options(tokenizer)
    try:
        rendered = _render(tokenizer, options, "a")
        source = tokenizer.get_chat_template(dict(options.arguments).get(TEMPLATE_CHOICE))
    except Exception:  # a template that cannot be rendered is reported on encoding
        return False
    without_clock = re.sub(r"\bstrftime_now(?=\s*\()", "raise_exception", source)
    if without_clock != source:
        try:
            _render(tokenizer, options, "a", chat_template=without_clock)
        except Exception:  # the template asked for the time
            return True
    # the tokenizer's own code can write the date too
    known_text, now = source + json.dumps(options.json, ensure_ascii=False), datetime.now()
    return any(
        date in rendered and date not in known_text
        for date in (now.strftime(form) for form in _DATE_FORMATS)
    )


def _require_accepted(
    tokenizer: PreTrainedTokenizerBase, options: TemplateOptions, name: str
) -> None:
    flags = [] if options.system is None else ["--system"]
    flags += ["--template-arg"] if options.arguments else []
    if not tokenizer.chat_template:
        raise OptionError(
            f"{' and '.join(flags)}: the tokenizer of {name} has no chat template to take it; write"
            " the text into the prompts"
        )
    _require_names(tokenizer, options, name)
    if (reason := _failure(tokenizer, options)) is not None:
        if (
            options.system is not None
            and _failure(tokenizer, TemplateOptions(None, options.arguments)) is None
        ):
            raise OptionError(
                f"the chat template of {name} does not accept a system message ({reason}); leave"
                " out --system and write its text into the prompts"
            )
        raise OptionError(
            f"the chat template of {name} fails with {' and '.join(flags)} ({reason}); change them"
        )
    without = TemplateOptions(None, options.arguments)
    if options.system is not None and _failure(tokenizer, without) is None:
        rendered = [_render(tokenizer, chosen, "Hello.") for chosen in (options, without)]
        if rendered[0] == rendered[1]:
            raise OptionError(
                f"the chat template of {name} ignores a system message; leave out --system and"
                " write its text into the prompts"
            )


def _require_names(tokenizer: PreTrainedTokenizerBase, options: TemplateOptions, name: str) -> None:
    reserved = {"messages", *inspect.signature(tokenizer.apply_chat_template).parameters}
    templates = tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else {}
    for argument, value in options.arguments:
        if argument == TEMPLATE_CHOICE and value in templates:
            continue
        if argument in reserved:
            raise OptionError(f"--template-arg {argument} is set by interp itself; leave it out")
        if not re.search(rf"\b{re.escape(argument)}\b", _template_source(tokenizer)):
            raise OptionError(
                f"--template-arg {argument}: the chat template of {name} does not read"
                f" {argument!r}; check the name"
            )


def _failure(tokenizer: PreTrainedTokenizerBase, options: TemplateOptions) -> str | None:
    """Why the template cannot render a turn with these options; None if it can."""
    try:
        _render(tokenizer, options, "Hello.")
    # a template is foreign code and can raise anything
    except Exception as error:
        return " ".join(str(error).split())[:200]
    return None


def _render(
    tokenizer: PreTrainedTokenizerBase, options: TemplateOptions, text: str, **arguments: Any
) -> str:
    return _render_turn(tokenizer, options, text, _takes_parts(tokenizer, options), **arguments)


def _render_turn(
    tokenizer: PreTrainedTokenizerBase,
    options: TemplateOptions,
    text: str,
    as_parts: bool,
    **more_arguments: Any,
) -> str:
    system_turn = [] if options.system is None else [("system", options.system)]
    conversation = _messages([*system_turn, ("user", text)], as_parts)
    arguments: dict[str, Any] = {**dict(options.arguments), **more_arguments}
    # the result is text, since tokenize is false
    return cast(
        str,
        tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=True, **arguments
        ),
    )


def _messages(conversation: Sequence[tuple[str, str]], as_parts: bool) -> list[dict[str, Any]]:
    return [
        {"role": role, "content": [{"type": "text", "text": content}] if as_parts else content}
        for role, content in conversation
    ]


def _takes_parts(tokenizer: PreTrainedTokenizerBase, options: TemplateOptions) -> bool:
    """Whether the template renders a user's text only as a list of parts, as multimodal templates
    do.
    """
    key = str(tokenizer.chat_template), options
    cached = getattr(tokenizer, _PARTS_ATTRIBUTE, None)
    if cached is None or cached[0] != key:
        cached = (
            key,
            not _renders_text(tokenizer, options, False)
            and _renders_text(tokenizer, options, True),
        )
        setattr(tokenizer, _PARTS_ATTRIBUTE, cached)
    return cached[1]


def _renders_text(
    tokenizer: PreTrainedTokenizerBase, options: TemplateOptions, as_parts: bool
) -> bool:
    try:
        rendered = _render_turn(tokenizer, options, PLACEHOLDER, as_parts)
    except Exception:  # a template is foreign code and can raise anything
        return False
    # a list that is printed verbatim was not read as parts
    return PLACEHOLDER in rendered and "{'type': 'text'" not in rendered


def _template_source(tokenizer: PreTrainedTokenizerBase) -> str:
    """The source of the template; of all templates if there are several."""
    template = tokenizer.chat_template
    return template if isinstance(template, str) else "\n".join(map(str, (template or {}).values()))


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
