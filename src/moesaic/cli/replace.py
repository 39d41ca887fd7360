"""``moesaic replace``."""

from __future__ import annotations

import moesaic
from moesaic.cli.options import (
    ExpertName,
    ExpertPath,
    MixturePath,
    OutputPath,
    RouterOption,
    Texts,
    refusing_wrong_values,
    text_paths,
)


def replace(
    mixture: MixturePath,
    name: ExpertName,
    expert: ExpertPath,
    output: OutputPath = None,
    text: Texts = None,
    router: RouterOption = "keep",
) -> None:
    """Put a better expert into the place of one that a sparse checkpoint has.

    Prints the checkpoint's folder.
    """
    with refusing_wrong_values():
        print(
            moesaic.replace_expert(
                mixture, name, expert, output, texts=text_paths(text) if text else None, router=router
            )
        )
