"""The tables of docs/sites.md, made from the code: ``python -m tests.sites_page`` writes them anew."""

from interp.models.anatomy import Anatomy, Place, Target, read_anatomy
from interp.models.places import QKV_HOOKS
from interp.sites import BLOCK_HOOKS, MATRICES
from tests import families, tiny
from tests.pages import ROOT

PAGE = ROOT / "docs" / "sites.md"
START, END = "<!-- sites -->", "<!-- /sites -->"
MODELS = {
    "Llama": tiny.llama,
    "GPT-2": tiny.gpt2,
    **{
        said: lambda name=name: families.build(name)
        for said, name in {
            "Mistral": "mistral",
            "Qwen2": "qwen2",
            "Qwen3": "qwen3",
            "Gemma-2": "gemma2",
            "Gemma-3": "gemma3",
            "OLMo-2": "olmo2",
            "Phi-3": "phi3",
            "GPT-NeoX": "neox",
            "Mixtral": "mixtral",
        }.items()
    },
}


def anatomies() -> dict[str, Anatomy]:
    """Of a small random model of every proven family."""
    return {name: read_anatomy(build()) for name, build in MODELS.items()}


def tables(found: dict[str, Anatomy]) -> str:
    """Sites and matrices, and the module of each by family; families with the same modules share a
    column.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, anatomy in found.items():
        groups.setdefault(tuple(_column(anatomy)), []).append(name)
    heads = [", ".join(names) for names in groups.values()]
    rows = [f"`{hook}`" for hook in BLOCK_HOOKS], [f"`{matrix}`" for matrix in MATRICES]
    split = 1 + len(BLOCK_HOOKS)
    return "\n\n".join(
        [
            _table(
                ("site", "what it is"), [(f"`{hook}`", said) for hook, said in BLOCK_HOOKS.items()]
            ),
            _table(
                ("site", *heads),
                [("a block", *(column[0] for column in groups))]
                + [
                    (hook, *cells)
                    for hook, *cells in zip(rows[0], *(c[1:split] for c in groups), strict=True)
                ],
            ),
            _table(
                ("matrix", "what it is"),
                [(f"`{matrix}`", said) for matrix, said in MATRICES.items()],
            ),
            _table(
                ("matrix", *heads),
                [
                    (name, *cells)
                    for name, *cells in zip(rows[1], *(c[split:] for c in groups), strict=True)
                ],
            ),
        ]
    )


def _column(anatomy: Anatomy) -> list[str]:
    sites = [
        _projected(anatomy.targets.get(hook), anatomy.matrices.get(QKV_HOOKS[hook]))
        if hook in QKV_HOOKS
        else _target(anatomy.targets.get(hook), anatomy)
        for hook in BLOCK_HOOKS
    ]
    return [
        f"`{anatomy.blocks_path}.L`",
        *sites,
        *(_place(anatomy.matrices.get(matrix)) for matrix in MATRICES),
    ]


def _projected(target: Target | None, place: Place | None) -> str:
    if target is None or place is None:
        return "none"
    path, comma, part = _place(place).partition(",")
    return f"{path} returns{comma}{part}"


def _target(target: Target | None, anatomy: Anatomy) -> str:
    if target is None:
        return "none"
    verb, module = (
        {"in": "reads", "out": "returns"}[target.side],
        f"`{target.path}`" if target.path else "the block",
    )
    if target.part is None:
        return f"{module} {verb}"
    half = "first" if target.part == (0, anatomy.n_neurons) else "last"
    return f"{module} {verb}, {half} N columns"


def _place(place: Place | None) -> str:
    if place is None:
        return "none"
    if not place.sizes:
        return f"`{place.path}`"
    of = f"part {place.index + 1} of {len(place.sizes)}" + (
        " of each head" if place.groups > 1 else ""
    )
    return f"`{place.path}`, {of}"


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ("---",) * len(heads), *rows])


def written(text: str, made: str) -> str:
    """The page with these tables between its marks."""
    before, _, rest = text.partition(START)
    return f"{before}{START}\n{made}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(
        written(PAGE.read_text(encoding="utf-8"), tables(anatomies())), encoding="utf-8"
    )
