"""What a chat template is given beside a prompt, and what it reads: in the tokens, in the key, in
the notes.
"""

import copy
import datetime
import json
import re

import pytest
from transformers.utils import chat_template_utils

from interp.analyzers.compare import Compare
from interp.cli import main
from interp.cli.prompt_options import PromptOptions, load_control
from interp.cli.request_cache import Request
from interp.cli.template_options import TemplateFlags
from interp.errors import OptionError
from interp.models.pair import Pair
from interp.prompts import (
    CONTENT,
    OneClass,
    Prompt,
    PromptSet,
    TemplateOptions,
    decode,
    encode,
    with_template_options,
)
from interp.prompts.template import reads_clock
from interp.prompts.thinking import answer_start
from interp.study import Study
from tests import tiny

THINKING = (
    tiny.TEMPLATE
    + "{% if add_generation_prompt and not enable_thinking | default(true) %}<think></think>{%"
    " endif %}{% if depth is defined %}{{ depth + 1 }}{% endif %}"
)
CLOCK = "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}" + tiny.TEMPLATE
ALONE = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{%"
    " endif %}" + tiny.TEMPLATE
)
DEAF = (
    "{% for m in messages if m.role == 'user' %}<|user|>{{ m.content }}<|end|>{% endfor"
    " %}<|assistant|>"
)
ASKING = (
    "{% if messages[0].role != 'system' %}{{ raise_exception('a system message first') }}{%"
    " endif %}" + tiny.TEMPLATE
)


def tokenizer(template):
    made = copy.deepcopy(tiny.tokenizer())
    made.chat_template = template
    return made


def text(made, prompt="open the door"):
    return decode(made, encode(made, prompt).ids)


@pytest.fixture(scope="module")
def models():
    base = tiny.llama()
    return tiny.perturbed(base, 0.03), base


def study(models, template=THINKING, **given):
    pair = Pair.from_modules(*models, tokenizer(template))
    return Study(pair.with_template(**given), tiny.contrast(4), tiny.metric())


def key(asked):
    return asked.provenance(Compare()).key


# --------------------------------------------------------------------------------- a system message and arguments


def test_a_system_message_stands_before_the_prompt_and_is_none_of_its_words():
    plain = tokenizer(THINKING)
    made = with_template_options(plain, TemplateOptions("close a window ?"), "m")
    assert text(made) == "<|system|>close a window ?<|end|>" + text(plain)
    coded = encode(made, "open the door")
    content = [index for index, role in zip(coded.ids, coded.roles, strict=True) if role == CONTENT]
    assert decode(made, content) == "open the door"
    assert text(plain) == "<|user|>open the door<|end|><|assistant|>"  # it is as it was
    assert text(with_template_options(made, TemplateOptions(), "m")) == text(plain)
    # an empty one is one: templates put a default where there is none
    assert text(
        with_template_options(plain, TemplateOptions(""), "m")
    ) == "<|system|><|end|>" + text(plain)


def test_arguments_reach_the_template_with_their_types_and_decide_where_answers_begin():
    plain = tokenizer(THINKING)
    made = with_template_options(
        plain, TemplateOptions(None, (("depth", 2), ("enable_thinking", False))), "m"
    )
    assert text(made) == text(plain) + "<think></think>3"
    within = tokenizer(tiny.TEMPLATE + "{% if think %}<think>{% endif %}{# </think> #}")
    assert not answer_start(within).in_block
    assert answer_start(
        with_template_options(within, TemplateOptions(None, (("think", True),)), "m")
    ).in_block


@pytest.mark.parametrize(
    ("template", "options", "said"),
    [
        (
            None,
            TemplateOptions("s"),
            "--system: the tokenizer of MODEL has no chat template to take it; write the",
        ),
        (
            None,
            TemplateOptions(None, (("a", 1),)),
            "--template-arg: the tokenizer of MODEL has no chat template",
        ),
        (
            ALONE,
            TemplateOptions("s"),
            r"of MODEL does not accept a system message \(System role not supported\); leave",
        ),
        (
            DEAF,
            TemplateOptions("s"),
            "the chat template of MODEL ignores a system message; leave out --system",
        ),
        (
            THINKING,
            TemplateOptions(None, (("thinking", False),)),
            "of MODEL does not read 'thinking'; check the name",
        ),
        (
            THINKING,
            TemplateOptions(None, (("messages", "x"),)),
            "--template-arg messages is set by interp itself",
        ),
        (
            THINKING,
            TemplateOptions(None, (("tokenize", True),)),
            "--template-arg tokenize is set by interp itself",
        ),
        (
            THINKING,
            TemplateOptions(None, (("depth", "x"),)),
            r"of MODEL fails with --template-arg \(.+\); change them",
        ),
    ],
)
def test_what_a_template_does_not_take_is_refused_in_one_line(template, options, said):
    with pytest.raises(OptionError, match=said) as caught:
        with_template_options(tokenizer(template), options, "MODEL")
    assert "\n" not in str(caught.value)


def test_a_template_that_asks_for_a_system_message_gets_it():
    made = with_template_options(tokenizer(ASKING), TemplateOptions("s"), "m")
    assert text(made).startswith("<|system|>s<|end|><|user|>open")


def test_what_the_template_is_given_is_in_the_key_and_in_a_note(models):
    given = [
        {},
        {"system": "close a window ?"},
        {"system": "close a window"},
        {"arguments": {"enable_thinking": False}},
        {"arguments": {"depth": 1}},
        {"arguments": {"depth": 2}},
    ]
    keys = [key(study(models, **each)) for each in given]
    assert len(set(keys)) == len(keys)
    assert keys == [key(study(models, **each)) for each in given]
    notes = study(
        models, system="close a\nwindow", arguments={"enable_thinking": False, "depth": 1}
    ).notes
    assert r"a system message precedes every prompt: 'close a\nwindow'" in notes
    assert "the chat template is given depth=1, enable_thinking=false" in notes
    assert not [note for note in study(models).notes if "template" in note or "system" in note]
    again = study(models, system="a").pair.with_template(system="b")
    assert again.template_options == TemplateOptions("b")
    assert len(set(again.notes)) == len(again.notes)


def test_the_key_hashes_the_tokens_that_the_prompts_became(models, monkeypatch):
    asked = study(models)
    assert asked.provenance(Compare()).inputs["tokens"].keys() == {"positive", "negative"}
    before = key(asked)
    # another version of a library can make other tokens of the same text with the same files
    monkeypatch.setattr(
        "interp.prompts.encoded_set.encode",
        lambda tokenizer, prompt: encode(tokenizer, f"{prompt} ."),
    )
    assert key(study(models)) != before
    assert key(asked) == before  # of what was read


def test_conversations_are_in_the_key_as_they_are_read(models):
    messages = (("user", "open the door"), ("assistant", "close it"))
    chats = OneClass(
        PromptSet((Prompt(0, "open the door\nclose it", "a", messages=messages),), "chats")
    )
    pairs = [
        Pair.from_modules(*models, tokenizer(template))
        for template in (tiny.TEMPLATE, "x" + tiny.TEMPLATE)
    ]
    digests = [Study(pair, chats, None).inputs["tokens"]["positive"] for pair in pairs]
    assert len({*digests, None}) == 3


# ------------------------------------------------------------------------------------------ a clock in a template


@pytest.fixture
def clock(monkeypatch):
    """Set what day a template thinks it is."""

    class Clock(datetime.datetime):
        day = 1

        @classmethod
        def now(cls, tz=None):
            return datetime.datetime(2026, 3, cls.day)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    chat_template_utils._compile_jinja_template.cache_clear()
    yield Clock
    chat_template_utils._compile_jinja_template.cache_clear()


def test_another_day_is_another_key_where_the_template_reads_the_clock(models, clock):
    first = study(models, CLOCK)
    keys, fixed, without = [key(first)], [], []
    assert "01 Mar 2026<|user|>" in decode(first.pair.tokenizer, first.encoded("positive")[0].ids)
    for clock.day in (2, 3):
        keys.append(key(study(models, CLOCK)))
        fixed.append(key(study(models, CLOCK, arguments={"date_string": "05 Mar 2026"})))
        without.append(key(study(models)))
        assert key(first) == keys[0]  # what it has read already
    assert len(set(keys)) == 3
    assert len(set(fixed)) == len(set(without)) == 1
    (note,) = [note for note in study(models, CLOCK).notes if "clock" in note]
    assert note.startswith(
        "the chat template reads the clock: the tokens of a prompt and the key of a run depend"
    )


@pytest.mark.parametrize(
    ("template", "arguments", "reads"),
    [
        (CLOCK, {}, True),
        (CLOCK, {"date_string": "today"}, False),
        (
            (
                "{% if strftime_now is defined %}{% set now = strftime_now ('%Y') %}{{ now }}{%"
                " endif %}x"
            ),
            {},
            True,
        ),
        ("{% if tools %}{{ strftime_now('%Y') }}{% endif %}x", {}, False),
        (THINKING, {}, False),
        # written in it for good
        (f"Today is {datetime.date.today():%Y-%m-%d}. " + tiny.TEMPLATE, {}, False),
        ({"default": CLOCK, "tool_use": THINKING}, {}, True),
        ({"default": THINKING, "tool_use": CLOCK}, {}, False),
        ("{{ raise_exception('no') }}", {}, False),
    ],
)
def test_whether_a_template_reads_the_clock(template, arguments, reads):
    made = with_template_options(
        tokenizer(template), TemplateOptions(None, tuple(arguments.items())), "m"
    )
    assert reads_clock(made) == reads


def test_a_date_that_a_tokenizers_own_code_writes_is_seen():
    class Dated(type(tiny.tokenizer())):
        def apply_chat_template(self, *args, **options):
            return (
                f"{datetime.date.today():%d %B %Y}{super().apply_chat_template(*args, **options)}"
            )

    made = tokenizer(THINKING)
    made.__class__ = Dated
    assert reads_clock(made)


# ------------------------------------------------------------------------------------------------ the command line


@pytest.fixture
def folder(tmp_path, models):
    for name, model in zip(("tuned", "base"), models, strict=True):
        tiny.save(model, tmp_path / name, with_tokenizer=False)
        tokenizer(THINKING).save_pretrained(tmp_path / name)
    (tmp_path / "p.txt").write_text("\n".join(tiny.PROMPTS))
    return tmp_path


def compared(folder, *more):
    return [
        "compare",
        f"{folder}/tuned",
        "--base",
        f"{folder}/base",
        "--prompts",
        f"{folder}/p.txt",
        "--store",
        f"{folder}/runs",
        "--json",
        *more,
    ]


ASKED = (
    "--system",
    "close a window ?",
    "--template-arg",
    "enable_thinking=false",
    "--template-arg",
    "depth=2",
)


@pytest.mark.slow
def test_a_command_says_keeps_and_repeats_what_the_template_was_given(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert main(compared(folder, *ASKED)) == 0
    said = capsys.readouterr()
    assert "note: a system message precedes every prompt: 'close a window ?'" in said.err
    assert "note: the chat template is given depth=2, enable_thinking=false" in said.err
    run = json.loads(said.out)
    assert main(compared(folder)) == 0
    other = json.loads(capsys.readouterr().out)
    keys = [re.search(r"\b[0-9a-f]{20}\b", json.dumps(each))[0] for each in (run, other)]
    assert keys[0] != keys[1]
    assert main(["report", keys[0], "--store", f"{folder}/runs", "--out", "r.html"]) == 0
    checks = []
    for more in ([], ["--remeasure"]):
        capsys.readouterr()
        assert main(["verify", "r.json", "--json", *more]) == 0
        checks.append(json.loads(capsys.readouterr().out)["checks"])
    assert checks[1] > checks[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["--template-arg", "depth"],
            "--template-arg 'depth' is not NAME=VALUE; write enable_thinking=false",
        ),
        (["--template-arg", "=1"], "is not NAME=VALUE"),
        (
            ["--template-arg", "depth=1", "--template-arg", "depth=2"],
            "--template-arg depth is given twice",
        ),
        (["--template-arg", "deep=1"], "does not read 'deep'; check the name"),
        (["--system", "\udcff"], "holds bytes that are not text in this locale"),
    ],
)
def test_options_that_say_nothing_are_refused_in_one_line(folder, capsys, given, said):
    assert main(compared(folder, *given)) == 2
    err = capsys.readouterr().err.strip()
    assert said in err
    assert "\n" not in err


def test_intruders_without_a_task_put_nothing_into_a_template(folder, capsys):
    assert main(["intruders", f"{folder}/tuned", "--base", f"{folder}/base", "--system", "s"]) == 2
    assert (
        "--system and --template-arg are of the prompts of --task FILE; give it"
        in capsys.readouterr().err
    )


def test_a_control_gets_what_the_pair_gets(folder):
    common = PromptOptions(
        base=f"{folder}/base", prompts=folder / "p.txt", system="close a window ?", device="cpu"
    )
    pair = common.templated(Pair.load(f"{folder}/tuned", common.base, **common.loading))
    tiny.save(tiny.perturbed(tiny.llama(7), 0.01, 5), folder / "control", with_tokenizer=False)
    pair.tokenizer.save_pretrained(folder / "control")
    control = load_control(common, f"{folder}/control", pair)
    assert control.template_options == pair.template_options == TemplateOptions("close a window ?")
    assert text(control.tokenizer) == text(pair.tokenizer)


def test_values_are_read_as_json_where_they_are_truth_values_or_numbers():
    given = [
        "a=true",
        "b=false",
        "c=3",
        "d=-0.5",
        "e=null",
        "f=[1]",
        "g=NaN",
        "h=1e999",
        'i="x"',
        "j=",
        "k=a=b",
        "l=True",
    ]
    assert TemplateFlags(template_arg=given).template_arguments() == {
        "a": True,
        "b": False,
        "c": 3,
        "d": -0.5,
        "e": "null",
        "f": "[1]",
        "g": "NaN",
        "h": "1e999",
        "i": '"x"',
        "j": "",
        "k": "a=b",
        "l": "True",
    }


def test_a_request_is_not_answered_from_before_where_the_template_reads_the_clock(folder):
    def request(**options):
        common = TemplateFlags(store=folder / "runs", **options)
        return Request.of(
            "x", {"tuned": f"{folder}/tuned", "base": f"{folder}/base", "common": common}
        ).describe()

    assert request() is not None
    assert request() == request() != request(system="a")
    assert request(template_arg=["depth=1"]) != request(template_arg=["depth=2"])
    tokenizer(CLOCK).save_pretrained(folder / "tuned")
    assert request() is None
