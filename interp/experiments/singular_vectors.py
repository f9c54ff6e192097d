"""Rows about matrices of blocks and their singular vectors."""

from interp.rows import flag, key, measure


class PartRow:
    """Rows about one matrix of the model."""

    layer: int = key("block, from 0; -1 outside the blocks")
    part: str = key("matrix of the block")


class VectorRow(PartRow):
    """A row per leading singular vector of a fine-tuned matrix."""

    rank: int = key("rank of the singular vector, from 1, largest singular value first")
    sigma: float = measure("singular value in the fine-tuned matrix")
    max_cosine: float = measure("largest absolute cosine with any singular vector of the base")
    is_intruder: bool = flag("max_cosine is below eps (the published definition)")
    nearest: int = measure("rank of the most similar base vector, from 1")
    subspace_cosine: float = measure(
        "norm of its projection onto base vectors of similar singular value"
    )
    subspace_intruder: bool = flag(
        "an intruder also when compared with base vectors of similar singular value"
    )
    p: float = measure(
        "p: share of random updates whose smallest cosine is as small, the real one counted"
    )
    beyond_null: bool = flag("a subspace intruder with p at most 0.05 within its matrix")
    small: bool = flag("the smaller side is 64 or less: cosines of random vectors come near eps")
