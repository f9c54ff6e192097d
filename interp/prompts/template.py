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

_HELD, _PARTS = "interp_template_options", "interp_template_parts"
PLACE = "qzxPLACEHOLDERxzq"
"""A placeholder that no template contains."""
CHOICE = "chat_template"
"""The transformers argument that selects one of several templates by name."""
_DATES = ("%Y-%m-%d", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%d/%m/%Y", "%m/%d/%Y")


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
        said = (
            []
            if self.system is None
            else [f"a system message precedes every prompt: {_short(self.system)}"]
        )
        given = ", ".join(
            f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in self.arguments
        )
        return (*said, *([f"the chat template is given {given}"] if given else []))


def options_of(tokenizer: PreTrainedTokenizerBase) -> TemplateOptions:
    """The template options of this tokenizer."""
    return getattr(tokenizer, _HELD, TemplateOptions())


def with_options(
    tokenizer: PreTrainedTokenizerBase, options: TemplateOptions, name: str
) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer with these template options; ``name`` of the model is for messages.

    Raises OptionError if there is no template, or if it fails with or ignores an option.
    """
    if options == options_of(tokenizer):
        return tokenizer
    made = copy.copy(tokenizer)  # both share the tokenisation itself
    setattr(made, _HELD, options)
    if options != TemplateOptions():
        _require_taken(made, options, name)
    return made


def render(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """A user turn with the generation prompt, after the system message if there is one."""
    return _render(tokenizer, options_of(tokenizer), text)


def render_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]
) -> str:
    """A whole conversation unchanged, with the template's arguments."""
    options = options_of(tokenizer)
    turns = [(message["role"], message["content"]) for message in messages]
    said = _messages(turns, _takes_parts(tokenizer, TemplateOptions(None, options.arguments)))
    return cast(str, tokenizer.apply_chat_template(said, tokenize=False, **dict(options.arguments)))


def remedy(tokenizer: PreTrainedTokenizerBase, error: Exception) -> str:
    """Advice for a template that fails for every prompt."""
    # from jinja2, which is not imported here
    if type(error).__name__ == "TemplateSyntaxError":
        return "correct the template in the tokenizer's directory"
    several = tokenizer.chat_template
    if (
        isinstance(several, dict)
        and "default" not in several
        and not dict(options_of(tokenizer).arguments).get(CHOICE)
    ):
        names = ", ".join(sorted(several))
        return f"choose one of its templates ({names}) with --template-arg {CHOICE}={min(several)}"
    return (
        "supply the missing input with --system or --template-arg, or change the template in the"
        " tokenizer's directory"
    )


def reads_clock(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template writes the time or the date into a prompt, with its current
    arguments.
    """
    options = options_of(tokenizer)
    try:
        turn = _render(tokenizer, options, "a")
        source = tokenizer.get_chat_template(dict(options.arguments).get(CHOICE))
    except Exception:  # a template that cannot be rendered is reported on encoding
        return False
    stopped = re.sub(r"\bstrftime_now(?=\s*\()", "raise_exception", source)
    if stopped != source:
        try:
            _render(tokenizer, options, "a", chat_template=stopped)
        except Exception:  # the template asked for the time
            return True
    # the tokenizer's own code can write the date too
    known, now = source + json.dumps(options.json, ensure_ascii=False), datetime.now()
    return any(
        date in turn and date not in known for date in (now.strftime(form) for form in _DATES)
    )


def _require_taken(tokenizer: PreTrainedTokenizerBase, options: TemplateOptions, name: str) -> None:
    flags = [] if options.system is None else ["--system"]
    flags += ["--template-arg"] if options.arguments else []
    if not tokenizer.chat_template:
        raise OptionError(
            f"{' and '.join(flags)}: the tokenizer of {name} has no chat template to take it; write"
            " the text into the prompts"
        )
    _require_names(tokenizer, options, name)
    if (reason := _refusal(tokenizer, options)) is not None:
        if (
            options.system is not None
            and _refusal(tokenizer, TemplateOptions(None, options.arguments)) is None
        ):
            raise OptionError(
                f"the chat template of {name} does not accept a system message ({reason}); leave"
                " out --system and write its text into the prompts"
            )
        raise OptionError(
            f"the chat template of {name} fails with {' and '.join(flags)} ({reason}); change them"
        )
    without = TemplateOptions(None, options.arguments)
    if options.system is not None and _refusal(tokenizer, without) is None:
        turns = [_render(tokenizer, chosen, "Hello.") for chosen in (options, without)]
        if turns[0] == turns[1]:
            raise OptionError(
                f"the chat template of {name} ignores a system message; leave out --system and"
                " write its text into the prompts"
            )


def _require_names(tokenizer: PreTrainedTokenizerBase, options: TemplateOptions, name: str) -> None:
    own = {"messages", *inspect.signature(tokenizer.apply_chat_template).parameters}
    several = tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else {}
    for argument, value in options.arguments:
        if argument == CHOICE and value in several:
            continue
        if argument in own:
            raise OptionError(f"--template-arg {argument} is set by interp itself; leave it out")
        if not re.search(rf"\b{re.escape(argument)}\b", _source(tokenizer)):
            raise OptionError(
                f"--template-arg {argument}: the chat template of {name} does not read"
                f" {argument!r}; check the name"
            )


def _refusal(tokenizer: PreTrainedTokenizerBase, options: TemplateOptions) -> str | None:
    """Why the template cannot render a turn with these options; None if it can."""
    try:
        _render(tokenizer, options, "Hello.")
    # a template is foreign code and can raise anything
    except Exception as error:
        return " ".join(str(error).split())[:200]
    return None


def _render(
    tokenizer: PreTrainedTokenizerBase, options: TemplateOptions, text: str, **more: Any
) -> str:
    return _turn(tokenizer, options, text, _takes_parts(tokenizer, options), **more)


def _turn(
    tokenizer: PreTrainedTokenizerBase,
    options: TemplateOptions,
    text: str,
    parts: bool,
    **more: Any,
) -> str:
    said = [] if options.system is None else [("system", options.system)]
    turns = _messages([*said, ("user", text)], parts)
    arguments: dict[str, Any] = {**dict(options.arguments), **more}
    # the result is text, since tokenize is false
    return cast(
        str,
        tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, **arguments
        ),
    )


def _messages(turns: Sequence[tuple[str, str]], parts: bool) -> list[dict[str, Any]]:
    return [
        {"role": role, "content": [{"type": "text", "text": content}] if parts else content}
        for role, content in turns
    ]


def _takes_parts(tokenizer: PreTrainedTokenizerBase, options: TemplateOptions) -> bool:
    """Whether the template renders a user's text only as a list of parts, as multimodal templates
    do.
    """
    key = str(tokenizer.chat_template), options
    known = getattr(tokenizer, _PARTS, None)
    if known is None or known[0] != key:
        known = key, not _writes(tokenizer, options, False) and _writes(tokenizer, options, True)
        setattr(tokenizer, _PARTS, known)
    return known[1]


def _writes(tokenizer: PreTrainedTokenizerBase, options: TemplateOptions, parts: bool) -> bool:
    try:
        turn = _turn(tokenizer, options, PLACE, parts)
    except Exception:  # a template is foreign code and can raise anything
        return False
    # a list that is printed verbatim was not read as parts
    return PLACE in turn and "{'type': 'text'" not in turn


def _source(tokenizer: PreTrainedTokenizerBase) -> str:
    """The source of the template; of all templates if there are several."""
    template = tokenizer.chat_template
    return template if isinstance(template, str) else "\n".join(map(str, (template or {}).values()))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
