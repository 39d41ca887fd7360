"""moesaic: one model out of several.

``y = Σ_m w_m(x) f_m(x)``: members and a combiner. Nouns are classes, verbs are functions, and the verbs are the
commands.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moesaic import combiners
    from moesaic.arena import evaluate
    from moesaic.explanation import chat, generate
    from moesaic.formats import export
    from moesaic.members import load_member
    from moesaic.mixture import Mixture
    from moesaic.module_mixture import ModuleMixture
    from moesaic.moe import add_expert, assemble, remove_expert, replace_expert
    from moesaic.recipe import check, compare, run
    from moesaic.routed_mixture import RoutedMixture
    from moesaic.seq2seq_mixture import Seq2SeqMixture
    from moesaic.text_mixture import TextMixture
    from moesaic.training import train

__version__ = "0.1.0"

__all__ = [
    "Mixture",
    "ModuleMixture",
    "RoutedMixture",
    "Seq2SeqMixture",
    "TextMixture",
    "add_expert",
    "assemble",
    "chat",
    "check",
    "combiners",
    "compare",
    "evaluate",
    "export",
    "generate",
    "load_member",
    "remove_expert",
    "replace_expert",
    "run",
    "train",
]

_HOMES = {
    "Mixture": "moesaic.mixture",
    "ModuleMixture": "moesaic.module_mixture",
    "RoutedMixture": "moesaic.routed_mixture",
    "Seq2SeqMixture": "moesaic.seq2seq_mixture",
    "TextMixture": "moesaic.text_mixture",
    "add_expert": "moesaic.moe",
    "assemble": "moesaic.moe",
    "chat": "moesaic.explanation",
    "check": "moesaic.recipe",
    "compare": "moesaic.recipe",
    "evaluate": "moesaic.arena",
    "export": "moesaic.formats",
    "generate": "moesaic.explanation",
    "load_member": "moesaic.members",
    "remove_expert": "moesaic.moe",
    "replace_expert": "moesaic.moe",
    "run": "moesaic.recipe",
    "train": "moesaic.training",
}


def __getattr__(name: str) -> Any:
    # What needs PyTorch is imported when it is first asked for, so that `import moesaic` is quick.
    if name == "combiners":
        return importlib.import_module("moesaic.combiners")
    if name not in _HOMES:
        raise AttributeError(f"module 'moesaic' has no attribute {name!r}")
    importlib.import_module("moesaic.seq2seq_mixture")  # makes saved mixtures known to Transformers
    importlib.import_module("moesaic.experts")  # makes our kernels known to Transformers
    importlib.import_module("moesaic.moe")  # makes sparse models with choices of their own known to Transformers
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
