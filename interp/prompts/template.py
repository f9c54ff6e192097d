"""How a prompt is put through a chat template: what stands before it, which values the template
gets, what it reads.
"""

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
"""A text that no template writes by itself."""
CHOICE = "chat_template"
"""The argument of transformers that chooses one of several templates by name."""
_DATES = ("%Y-%m-%d", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%d/%m/%Y", "%m/%d/%Y")


@dataclass(frozen=True)
class TemplateOptions:
    """What a chat template gets beside a user's prompt: a ``system`` message before it, and
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
        """What a reader of numbers must know of them, in sentences."""
        said = (
            []
            if self.system is None
            else [f"a system message stands before every prompt: {_short(self.system)}"]
        )
        given = ", ".join(
            f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in self.arguments
        )
        return (*said, *([f"the chat template is given {given}"] if given else []))


def options_of(tokenizer: PreTrainedTokenizerBase) -> TemplateOptions:
    """What this tokenizer's chat template is given beside prompts."""
    return getattr(tokenizer, _HELD, TemplateOptions())


def with_options(
    tokenizer: PreTrainedTokenizerBase, options: TemplateOptions, name: str
) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer whose chat template is given these; ``name`` of the model is for
    messages.

    Raises OptionError where there is no template, or one that refuses or leaves out what it is
    given.
    """
    if options == options_of(tokenizer):
        return tokenizer
    made = copy.copy(tokenizer)  # both share what turns text into ids
    setattr(made, _HELD, options)
    if options != TemplateOptions():
        _require_taken(made, options, name)
    return made


def render(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """A user's turn with the generation prompt, after the system message where there is one."""
    return _render(tokenizer, options_of(tokenizer), text)


def render_conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]
) -> str:
    """A whole conversation as it is, with the template's arguments."""
    options = options_of(tokenizer)
    turns = [(message["role"], message["content"]) for message in messages]
    said = _messages(turns, _takes_parts(tokenizer, TemplateOptions(None, options.arguments)))
    return cast(str, tokenizer.apply_chat_template(said, tokenize=False, **dict(options.arguments)))


def remedy(tokenizer: PreTrainedTokenizerBase, error: Exception) -> str:
    """What to do about a template that fails for every prompt."""
    # of jinja2, which this package does not import
    if type(error).__name__ == "TemplateSyntaxError":
        return "mend the template in the tokenizer's directory"
    several = tokenizer.chat_template
    if (
        isinstance(several, dict)
        and "default" not in several
        and not dict(options_of(tokenizer).arguments).get(CHOICE)
    ):
        names = ", ".join(sorted(several))
        return f"choose one of its templates ({names}) with --template-arg {CHOICE}={min(several)}"
    return (
        "give what it asks for with --system or --template-arg, or change the template in the"
        " tokenizer's directory"
    )


def reads_clock(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template writes the time or the date into a prompt, with the arguments that
    it is given.
    """
    options = options_of(tokenizer)
    try:
        turn = _render(tokenizer, options, "a")
        source = tokenizer.get_chat_template(dict(options.arguments).get(CHOICE))
    except Exception:  # a template that cannot be rendered is refused by who encodes
        return False
    stopped = re.sub(r"\bstrftime_now(?=\s*\()", "raise_exception", source)
    if stopped != source:
        try:
            _render(tokenizer, options, "a", chat_template=stopped)
        except Exception:  # raised where it asks for the time
            return True
    # a tokenizer's own code can write the date too
    known, now = source + json.dumps(options.json, ensure_ascii=False), datetime.now()
    return any(
        date in turn and date not in known for date in (now.strftime(form) for form in _DATES)
    )


def _require_taken(tokenizer: PreTrainedTokenizerBase, options: TemplateOptions, name: str) -> None:
    flags = [] if options.system is None else ["--system"]
    flags += ["--template-arg"] if options.arguments else []
    if not tokenizer.chat_template:
        raise OptionError(
            f"{' and '.join(flags)}: the tokenizer of {name} has no chat template to put it into;"
            " write the text into the prompts"
        )
    _require_names(tokenizer, options, name)
    if (reason := _refusal(tokenizer, options)) is not None:
        if (
            options.system is not None
            and _refusal(tokenizer, TemplateOptions(None, options.arguments)) is None
        ):
            raise OptionError(
                f"the chat template of {name} refuses a system message ({reason}); leave --system"
                " out, and write its text into the prompts"
            )
        raise OptionError(
            f"the chat template of {name} fails with {' and '.join(flags)} ({reason}); change them"
        )
    without = TemplateOptions(None, options.arguments)
    if options.system is not None and _refusal(tokenizer, without) is None:
        turns = [_render(tokenizer, each, "Hello.") for each in (options, without)]
        if turns[0] == turns[1]:
            raise OptionError(
                f"the chat template of {name} leaves a system message out; leave --system out, and"
                " write its text into the prompts"
            )


def _require_names(tokenizer: PreTrainedTokenizerBase, options: TemplateOptions, name: str) -> None:
    own = {"messages", *inspect.signature(tokenizer.apply_chat_template).parameters}
    several = tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else {}
    for argument, value in options.arguments:
        if argument == CHOICE and value in several:
            continue
        if argument in own:
            raise OptionError(
                f"--template-arg {argument} is what interp itself gives a chat template; leave"
                " it out"
            )
        if not re.search(rf"\b{re.escape(argument)}\b", _source(tokenizer)):
            raise OptionError(
                f"--template-arg {argument}: the chat template of {name} does not read"
                f" {argument!r}; check the name"
            )


def _refusal(tokenizer: PreTrainedTokenizerBase, options: TemplateOptions) -> str | None:
    """Why the template cannot write a turn with these options; None where it can."""
    try:
        _render(tokenizer, options, "Hello.")
    # a template is a program of the model's author: it can raise anything
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
    # it is text unless it is to be tokenised
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
    """Whether the template writes a user's text only where it is given as a list of parts, as
    multimodal ones do.
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
    except Exception:  # a template is a program of the model's author: it can raise anything
        return False
    # a list that is written as it is was not read as parts
    return PLACE in turn and "{'type': 'text'" not in turn


def _source(tokenizer: PreTrainedTokenizerBase) -> str:
    """The template as its author wrote it; of several all."""
    template = tokenizer.chat_template
    return template if isinstance(template, str) else "\n".join(map(str, (template or {}).values()))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
