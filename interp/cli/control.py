"""``interp control``: control fine-tunes, the same training as a fine-tune's on neutral text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.common import Common, takes

_PATH: dict[str, Any] = {"metavar": "FILE"}


@dataclass(frozen=True, kw_only=True)
class Training(Common):
    """How controls are trained; the fields are flags, and what is not given is assumed and marked
    so.
    """

    base: Annotated[str | None, typer.Option("--base", metavar="BASE", help="The base model.")] = (
        None
    )
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="Folder to write: DIR/seed-0/matched, raw, ..."),
    ]
    seeds: Annotated[
        int, typer.Option("--seeds", metavar="N", min=1, help="How many controls.")
    ] = 5
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of the first.")] = 0
    text: Annotated[
        Path | None,
        typer.Option(
            "--text", **_PATH, help="Neutral text: .txt, .jsonl, .parquet.  [default: shipped]"
        ),
    ] = None
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps", metavar="N", min=1, help="Steps.  [default: planned from the change]"
        ),
    ] = None
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate", metavar="X", help="Highest rate.  [default: 1e-4; full: 1e-5]"
        ),
    ] = None
    schedule: Annotated[
        str | None,
        typer.Option(
            "--schedule", metavar="NAME", help="cosine, linear, constant.  [default: cosine]"
        ),
    ] = None
    warm_up: Annotated[
        float | None,
        typer.Option("--warm-up", metavar="X", help="Share of steps.  [default: 0.03]"),
    ] = None
    optimizer: Annotated[
        str | None,
        typer.Option(
            "--optimizer", metavar="NAME", help="adamw, adafactor, sgd.  [default: adamw]"
        ),
    ] = None
    weight_decay: Annotated[
        float | None,
        typer.Option("--weight-decay", metavar="X", help="Of the optimiser.  [default: 0]"),
    ] = None
    clip: Annotated[
        float | None,
        typer.Option(
            "--clip", metavar="X", help="Gradient-norm clipping; 0 disables it.  [default: 1]"
        ),
    ] = None
    batch: Annotated[
        int | None,
        typer.Option("--batch", metavar="N", min=1, help="Passages a step.  [default: 2]"),
    ] = None
    length: Annotated[
        int | None,
        typer.Option("--length", metavar="N", min=2, help="Tokens of a passage.  [default: 128]"),
    ] = None
    loss: Annotated[
        str | None,
        typer.Option("--loss", metavar="NAME", help="answers, all.  [default: answers of chats]"),
    ] = None
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision", metavar="NAME", help="float32, or bfloat16 passes.  [default: float32]"
        ),
    ] = None
    device: Annotated[str, typer.Option("--device", metavar="NAME|auto", help="cpu or cuda.")] = (
        "auto"
    )


@takes(Training)
def command(
    tuned: Annotated[
        str, typer.Argument(metavar="ADAPTER_OR_MODEL", help="A LoRA adapter or a full model.")
    ],
    *,
    common: Training,
) -> None:
    """Train control fine-tunes: the fine-tune's own configuration, on neutral text of several
    registers.

    Each is kept raw, and matched: with the change of every module scaled to the fine-tune's. What
    is not given is assumed, and marked so in what is printed and in DIR/seed-N/control.json.

    Example: interp control ./lora --base ./base --out ./controls --learning-rate 2e-4 --steps 300
    """
    from interp.training import Recipe, make_controls

    recipe = Recipe(
        optimizer=common.optimizer,
        learning_rate=common.learning_rate,
        schedule=common.schedule,
        warm_up=common.warm_up,
        weight_decay=common.weight_decay,
        clip=common.clip,
        batch=common.batch,
        length=common.length,
        steps=common.steps,
        loss=common.loss,
        precision=common.precision,
    )
    records = make_controls(
        tuned,
        common.base,
        common.out,
        recipe,
        seeds=range(common.seed, common.seed + common.seeds),
        text=common.text,
        device=common.device,
        log=common.remark,
    )
    common.result(
        {"path": str(common.out), "controls": records}, summary_lines(common.out, tuned, records)
    )


def summary_lines(out: Path, tuned: str, records: Sequence[Mapping[str, Any]]) -> str:
    """The printed result: the settings, and losses and norms of every control."""
    settings = {
        name: f"{one['value']}{'' if one['from'] == 'given' else ' (' + one['from'] + ')'}"
        for name, one in records[0]["settings"].items()
    }
    text = records[0]["text"]
    lines = [
        f"{out}: {len(records)} control{'s' * (len(records) > 1)} of {tuned}, each raw and matched",
        f"  text: {text['name']}, {text['passages']} passages and {text['held_out']} held out",
        *(f"  {name}: {value}" for name, value in settings.items()),
    ]
    for one in records:
        loss, ratio, checks = one["loss"], one["norm_ratio"], one["checks"]
        falls = ", ".join(
            f"{part.replace('_', ' ')} text {values['base']:.3f} -> {values['raw']:.3f} "
            f"(matched {values['matched']:.3f})"
            for part, values in loss.items()
        )
        size = (
            "the fine-tune changed nothing"
            if ratio["whole"] is None
            else (
                f"norm of the change over the fine-tune's {ratio['whole']:.2f} (by module: min"
                f" {ratio['min']:.2f}, median {ratio['median']:.2f}, max {ratio['max']:.2f})"
            )
        )
        failed = [name.replace("_", " ") for name, passed in checks.items() if not passed]
        lines.append(
            f"  seed {one['seed']}: loss on {falls}; {size}"
            + ("; NOT: " + ", ".join(failed) if failed else "")
        )
    return "\n".join(lines)
