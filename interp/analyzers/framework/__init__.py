"""What an analyzer is: options with help and bounds, needs, and a method ``run`` that gives a result.

An analyzer is a frozen dataclass, called with a study. Its fields are declared by ``option``: from
them come the flags of its command, their help, the checks before anything is loaded and the key of
the run. ``needs`` says what a study must have. ``run`` measures; the claims of its result are
evaluated by ``interp.claims``. See docs/adding-an-analyzer.md.
"""

from interp.analyzers.framework.analyzer import (
    Analyzer,
    Known,
    Needs,
    Result,
    option,
    require_locating,
)
from interp.analyzers.framework.by_prompt import answer_lengths, prompt_rows, sign_flips
from interp.analyzers.framework.content import fingerprint
from interp.analyzers.framework.evidence import evidence_result

__all__ = [
    "Analyzer",
    "Known",
    "Needs",
    "Result",
    "answer_lengths",
    "evidence_result",
    "fingerprint",
    "option",
    "prompt_rows",
    "require_locating",
    "sign_flips",
]
