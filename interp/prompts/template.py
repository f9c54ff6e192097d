"""How a prompt is put through a chat template: what stands before it, which values the template gets, what it reads."""

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

_HELD = "interp_template_options"
_DATES = ("%Y-%m-%d", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%d/%m/%Y", "%m/%d/%Y")


@dataclass(frozen=True)
class TemplateOptions:
    """What a chat template gets beside a user's prompt: a ``system`` message before it, and ``arguments`` by name."""

    system: str | None = None
    arguments: tuple[tuple[str, JSON], ...] = ()

    @property
    def json(self) -> JSON:
        """Both as JSON."""
        return {"system": self.system, "arguments": dict(self.arguments)}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of numbers must know of them, in sentences."""
        said = [] if self.system is None else [f"a system message stands before every prompt: {_short(self.system)}"]
        given = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in self.arguments)
        return (*said, *([f"the chat template is given {given}"] if given else []))


def options_of(tokenizer: PreTrainedTokenizerBase) -> TemplateOptions:
    """What this tokenizer's chat template is given beside prompts."""
    return getattr(tokenizer, _HELD, TemplateOptions())


def with_options(tokenizer: PreTrainedTokenizerBase, options: TemplateOptions, name: str) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer whose chat template is given these; ``name`` of the model is for messages.

    Raises OptionError where there is no template, or one that refuses or leaves out what it is given.
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


def render_conversation(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> str:
    """A whole conversation as it is, with the template's arguments."""
    arguments: dict[str, Any] = dict(options_of(tokenizer).arguments)
    return cast(str, tokenizer.apply_chat_template(list(messages), tokenize=False, **arguments))


def reads_clock(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template writes the time or the date into a prompt, with the arguments that it is given."""
    options = options_of(tokenizer)
    try:
        turn, source = _render(tokenizer, options, "a"), tokenizer.get_chat_template()
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
    return any(date in turn and date not in known for date in (now.strftime(form) for form in _DATES))


def _require_taken(tokenizer: PreTrainedTokenizerBase, options: TemplateOptions, name: str) -> None:
    flags = [] if options.system is None else ["--system"]
    flags += ["--template-arg"] if options.arguments else []
    if not tokenizer.chat_template:
        raise OptionError(
            f"{' and '.join(flags)}: the tokenizer of {name} has no chat template to put it into; write the text into "
            "the prompts"
        )
    _require_names(tokenizer, options, name)
    if (reason := _refusal(tokenizer, options)) is not None:
        if options.system is not None and _refusal(tokenizer, TemplateOptions(None, options.arguments)) is None:
            raise OptionError(
                f"the chat template of {name} refuses a system message ({reason}); leave --system out, and write its "
                "text into the prompts"
            )
        raise OptionError(f"the chat template of {name} fails with {' and '.join(flags)} ({reason}); change them")
    without = TemplateOptions(None, options.arguments)
    if options.system is not None and _refusal(tokenizer, without) is None:
        turns = [_render(tokenizer, each, "Hello.") for each in (options, without)]
        if turns[0] == turns[1]:
            raise OptionError(
                f"the chat template of {name} leaves a system message out; leave --system out, and write its text "
                "into the prompts"
            )


def _require_names(tokenizer: PreTrainedTokenizerBase, options: TemplateOptions, name: str) -> None:
    own = {"messages", *inspect.signature(tokenizer.apply_chat_template).parameters}
    for argument, _ in options.arguments:
        if argument in own:
            raise OptionError(f"--template-arg {argument} is what interp itself gives a chat template; leave it out")
        if not re.search(rf"\b{re.escape(argument)}\b", _source(tokenizer)):
            raise OptionError(
                f"--template-arg {argument}: the chat template of {name} does not read {argument!r}; check the name"
            )


def _refusal(tokenizer: PreTrainedTokenizerBase, options: TemplateOptions) -> str | None:
    """Why the template cannot write a turn with these options; None where it can."""
    try:
        _render(tokenizer, options, "Hello.")
    except Exception as error:  # a template is a program of the model's author: it can raise anything
        return " ".join(str(error).split())[:200]
    return None


def _render(tokenizer: PreTrainedTokenizerBase, options: TemplateOptions, text: str, **more: Any) -> str:
    turns = [] if options.system is None else [{"role": "system", "content": options.system}]
    turns.append({"role": "user", "content": text})
    arguments: dict[str, Any] = {**dict(options.arguments), **more}
    # it is text unless it is to be tokenised
    return cast(str, tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **arguments))


def _source(tokenizer: PreTrainedTokenizerBase) -> str:
    """The template as its author wrote it; of several all."""
    template = tokenizer.chat_template
    return template if isinstance(template, str) else "\n".join(map(str, (template or {}).values()))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
