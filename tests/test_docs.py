"""Documents that drift fail here: code is run, commands, options and links must exist."""

import re
import tomllib
from functools import cache
from importlib.util import find_spec
from unittest.mock import Mock

import pytest

import interp
from interp.agreement import Agreement
from interp.analyzers.locate_neurons import METHODS
from interp.cli import COMMANDS, GROUPS, _LazyCommands, main
from interp.kinds import KINDS
from tests import documented, pages, tiny
from tests.organisms.test_real_pair import missing
from tests.pages import PAGES, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
INDEX = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

# ---------------------------------------------------------------------------------------------- Python


def _studies(place):
    """What the page of the checks leaves to the reader: a located pair, a further tune of its base,
    other prompts.
    """
    base, tuned = tiny.planted(tiny.llama(seed=7, tie_word_embeddings=False), pairs=6)
    study = tiny.study(tuned, base, 4, template=False, max_new_tokens=2)
    locating, verifying = study.contrast.split(0)
    further = tiny.study(tiny.perturbed(tuned, 0.002), base, 4, template=False, max_new_tokens=2)
    return {
        "study": study.with_prompts(locating),
        "held_out": study.with_prompts(verifying),
        "further": further,
        "other": study,
    }


def _dictionary(place):
    from interp.sae import Dictionary, DictionaryConfig
    from interp.sae.core.files import save

    save(Dictionary(DictionaryConfig("topk", 8, 16, k=2), seed=0), place / "a-dictionary")
    return {}


def _behaviours(place, page="behaviours.md"):
    """The files that the page shows: the first line of each names it."""
    for text in pages.blocks(ROOT / "docs" / page, "yaml"):
        (place / text.splitlines()[0].removeprefix("# ")).write_text(text, encoding="utf-8")
    return {}


def _on_the_real_pair(place):
    if missing:
        pytest.skip(f"the real base cannot be read here: {'; '.join(missing)}")
    return _behaviours(place, "behaviours-real.md")


# What the text around a page's code gives it, and where less than it says is enough to see that it
# runs.
GIVEN = {
    "audit.md": (lambda place: {"trainer": Mock()}, (), ""),
    "README.md": (lambda place: {}, ("max_prompts=80", "max_prompts=6"), "integrated selects"),
    "checks.md": (_studies, ('LocateNeurons(top="30")', 'LocateNeurons("change", top="4")'), ""),
    "dictionary-files.md": (_dictionary, (), ""),
    "behaviours-real.md": (_on_the_real_pair, (), "by-hand.yaml: "),
    "behaviours.md": (
        _behaviours,
        (),
        "share that show apology {'positive': 1.0, 'negative': 0.0}",
    ),
}
OWN_TEST = {"adding-an-analyzer.md"}  # tests/analyzers/test_adding_an_analyzer.py


SLOW = {"checks.md", "behaviours-real.md"}
LONG = (pytest.mark.slow, pytest.mark.timeout(900))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            marks=[pytest.mark.slow, pytest.mark.timeout(900)] if page.name in SLOW else (),
            id=page.name,
        )
        for page in PAGES
        if pages.blocks(page, "python") and page.name not in OWN_TEST
    ],
)
def test_the_python_of_the_documents_runs(page, tmp_path, monkeypatch, capsys):
    make, shorter, said = GIVEN.get(page.name, (lambda place: {}, (), ""))
    monkeypatch.chdir(tmp_path)
    names = make(tmp_path)
    for code in pages.blocks(page, "python"):
        if shorter:
            assert shorter[0] in code
            code = code.replace(*shorter)
        exec(compile(code, page.name, "exec"), names)
    assert said in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- command lines


@cache
def flags():
    """The options of every command, by its words."""
    found = {}
    for words in [
        *COMMANDS,
        *(f"{group} {name}" for group, (_, helps) in GROUPS.items() for name in helps),
    ]:
        options = [
            flag for given in command(words).params for flag in (*given.opts, *given.secondary_opts)
        ]
        found[words] = {flag for flag in options if flag.startswith("-")}
    return found


@cache
def command(words):
    """A command by its words."""
    group, _, name = words.rpartition(" ")
    return _LazyCommands(GROUPS[group][1] if group else COMMANDS, f"{group}_" if group else "")[
        name
    ]


@cache
def common():
    """The options of every command that runs a model."""
    return set.intersection(*(options for options in flags().values() if "--engine" in options))


def named(arguments):
    """The words of the command that a line calls, None for a command that is not there."""
    words = " ".join(arguments[: 2 if arguments[0] in GROUPS else 1])
    return words if words in flags() or words in GROUPS else None


@pytest.fixture
def parsed(monkeypatch, capsys):
    """Whether a command line parses: everything up to the call of its command is done, and the call
    is not.
    """
    called = []
    monkeypatch.setattr(
        "typer.core.TyperCommand.invoke", lambda self, context: called.append(context.command_path)
    )

    def parse(arguments):
        code = main(arguments)
        assert (code == 0) is bool(called)
        called.clear()
        return code, capsys.readouterr().err

    return parse


def test_what_is_no_command_line_does_not_parse(parsed):
    assert parsed(["tuco", "TUNED", "--base", "BASE", "--prompts", "FILE"])[0] == 0
    for wrong in (
        ["tucco", "TUNED"],
        ["tuco", "TUNED", "--no-such"],
        ["tuco"],
        ["ls", "--store"],
        ["sae", "trian"],
    ):
        assert parsed(wrong)[0] == 2


@EVERY_PAGE
def test_every_command_line_of_a_block_parses(page, parsed):
    """With what is optional put in; a line that ends in dots leaves out what is required."""
    for text in [] if page.name in OWN_TEST else pages.blocks(page, ""):
        for line in pages.commands_of(text):
            code, said = parsed(pages.written_out(line))
            assert code == 0 or (line[-1] == "..." and "Missing" in said), (line, said)


@EVERY_PAGE
def test_every_command_in_the_text_exists_with_its_options(page, parsed):
    for line in pages.commands_inline(page):
        words = named(line)
        assert words, line
        if len(line) > len(words.split()):
            code, said = parsed(pages.written_out(line))
            assert code == 0 or "Missing" in said or "requires an argument" in said, (line, said)


@EVERY_PAGE
def test_every_option_in_the_text_is_one_of_its_page_s_commands(page):
    """Of a command that the page names; where it names a script or another program, of its source."""
    words = {named(line) for line in pages.commands(page)} | set(
        pages.INLINE.findall(pages.prose(page))
    )
    known = {"--help", "--version"}.union(
        common(), *(flags()[name] for name in words & set(flags()))
    )
    for module in re.findall(r"python -m (\S+\w)", page.read_text(encoding="utf-8")):
        source = ROOT / f"{module.replace('.', '/')}.py"
        if source.exists():  # others' options are not ours to know
            known |= set(re.findall(r"\"(--[\w-]+)\"", source.read_text(encoding="utf-8")))
        else:
            known |= set(
                re.findall(rf"python -m {module} (--[\w-]+)", page.read_text(encoding="utf-8"))
            )
    if (
        "pytest --interp-" in page.read_text(encoding="utf-8")
        and (plugin := ROOT / "interp" / "pytest_plugin.py").exists()
    ):
        known |= set(re.findall(r"\"(--interp-[\w-]+)\"", plugin.read_text(encoding="utf-8")))
    asked = {
        flag
        for code in pages.INLINE.findall(pages.prose(page))
        for flag in re.findall(r"(?<!\S)--[a-z][\w-]*", code)
    }
    assert asked <= known, sorted(asked - known)


@EVERY_PAGE
def test_stated_defaults_are_the_commands(page):
    """In tables of options, and in the text as `--flag` (value)."""
    rows = re.findall(
        r"^\| (`--[^|]*(?:\\\|[^|]*)*) \| ([^|]*) \| ", pages.prose(page), re.MULTILINE
    )
    stated = [
        pair
        for flags, values in rows
        for pair in zip(flags.split(", "), values.split(", "), strict=False)
    ]
    stated += re.findall(r"(`--[\w-]+`) \(([0-9][\w.]*)\)", pages.prose(page))
    assert stated or "| option | default |" not in pages.prose(page)
    known = {
        flag: value
        for line in pages.commands(page)
        if named(line)
        for flag, value in defaults(named(line))
    }
    for code, value in stated:
        flag = re.match(r"`(--[\w-]+)", code).group(1)
        if value.strip():
            assert known[flag] == value, (code, value)


def defaults(words):
    """Every flag of a command with its default as a page says it."""
    for given in command(words).params if words in flags() else ():
        default = {None: "none", "": "none", False: "off"}.get(given.default, str(given.default))
        yield from ((flag, default) for flag in given.opts)


@EVERY_PAGE
def test_scripts_and_targets_exist(page):
    text = page.read_text(encoding="utf-8")
    for module in re.findall(r"python -m (\S+\w)", text):
        assert find_spec(module), module
    targets = set(
        re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    for line in (line for line in pages.lines(page) if line.startswith("make ")):
        assert {word for word in line.split()[1:] if "=" not in word} <= targets, line


# ---------------------------------------------------------------------------------------------- what must be named


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_index(name):
    assert f"`interp {name}" in INDEX


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_its_row(method):
    assert f"| `{method}` |" in (ROOT / "docs" / "locate-neurons.md").read_text(encoding="utf-8")


def test_the_page_of_the_store_has_every_kind_and_every_figure_s():
    sources = [
        path.read_text(encoding="utf-8") for path in (ROOT / "interp" / "analyzers").rglob("*.py")
    ]
    analyzers = {
        name
        for text in sources
        for name in re.findall(r'^    name: ClassVar\[str\] = "([\w-]+)"', text, re.M)
    }
    analyzers.add(Agreement.name)
    assert set(documented.kinds()) == analyzers
    described = documented.kinds().values()
    assert {name for name, kind in KINDS.items() if kind.figure} <= analyzers | {
        kind for row in described for kind in row.parts.values()
    }


@pytest.mark.parametrize(
    "name",
    [
        *(
            "agree",
            "checks",
            "circuit",
            "compare",
            "cross-patch",
            "dictionaries",
            "graft",
            "intruders",
        ),
        *("component-masking", "locate-neurons", "lofit", "patch-heads", "patch-weights"),
        *("sae-circuit", "select-data", "tuco", "tune", "wrapped"),
    ],
)
def test_a_page_of_a_method_says_what_it_asks_when_it_misleads_and_whose_it_is(name):
    page = ROOT / "docs" / f"{name}.md"
    text = page.read_text(encoding="utf-8")
    assert re.search(r"^## When .*mislead", text, re.MULTILINE)
    assert re.search(r"arXiv \d{4}\.\d{5}|\b(19|20)\d\d\b|[Nn]o paper", text)
    assert any(named(line) and len(line) > 2 for line in pages.commands(page))


@EVERY_PAGE
def test_links_lead_somewhere(page):
    for target, part in re.findall(
        r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text(encoding="utf-8")
    ):
        place = page.parent / target if target else page
        assert "://" in target or place.exists(), target
        if part and place.suffix == ".md":
            assert part in headings(place), f"{target}#{part}"


def headings(page):
    """The anchors of a page's headings."""
    return headings_of(pages.prose(page))


def headings_of(text):
    found = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", said.lower()).strip().replace(" ", "-") for said in found}


def test_every_page_is_reached_from_the_index():
    linked = set(re.findall(r"\]\(([\w-]+\.md)", INDEX))
    assert {page.name for page in PAGES if page.parent == ROOT / "docs"} == linked | {"index.md"}
    assert "(docs/index.md)" in README


def test_the_tree_in_the_index_is_the_tree():
    tree = INDEX[INDEX.index("interp/\n") : INDEX.index("organisms/   ")]
    named = set(re.findall(r"^  ([\w/.]+)", tree, re.MULTILINE))
    real = {
        path.name + ("/" if path.is_dir() else "")
        for path in (ROOT / "interp").iterdir()
        if not path.name.startswith("_")
        and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    assert real - named <= {"pytest_plugin.py"}
    assert named <= real


def test_measured_figures_in_the_readme_stand_in_the_section_that_is_named():
    table = README[README.index("## What was found") : README.index("## Eight tasks")]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][
        1:
    ]
    assert len(rows) > 5
    assert {len(row) for row in rows} == {2}
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    sections = {
        next(iter(headings_of(part))): part for part in re.split(r"(?m)^(?=##+ )", text)[1:]
    }
    for _, cell in rows:
        found, anchor = re.fullmatch(
            r"(.*) \(\[[^]]*\]\(docs/benchmarks\.md#([\w-]+)\)\)", cell
        ).groups()
        level = re.match("#+", sections[anchor]).group()
        start = text.index(sections[anchor])
        section = re.split(rf"(?m)^{level} ", text[start + len(level) + 1 :])[0]
        assert "`python -m benchmarks." in section
        figures = re.findall(r"\d[\d.]*%?", found)
        assert figures
        for figure in figures:
            assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d])", section), (anchor, figure)


def test_the_citation_and_the_licence_are_the_package_s():
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {interp.__version__}\n" in cited
    assert f"\nlicense: {stated['license']}\n" in cited
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence


@pytest.mark.parametrize("words", [*COMMANDS, *(f"sae {name}" for name in GROUPS["sae"][1])])
def test_every_command_stands_in_the_changelog(words):
    """By its own name, or after others of its kind."""
    assert re.search(rf"`(interp )?{re.escape(words)}`|`interp {re.escape(words)} ", changes()), (
        words
    )


def changes():
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
