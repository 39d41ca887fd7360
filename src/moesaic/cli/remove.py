"""``moesaic remove``."""

from __future__ import annotations

import moesaic
from moesaic.cli.options import (
    ExpertName,
    MixturePath,
    OutputPath,
    RouterOption,
    Texts,
    refusing_wrong_values,
    text_paths,
)


def remove(
    mixture: MixturePath,
    name: ExpertName,
    output: OutputPath = None,
    text: Texts = None,
    router: RouterOption = "keep",
) -> None:
    """Take an expert out of a sparse checkpoint; its tensors are gone from the files.

    Prints the checkpoint's folder.
    """
    with refusing_wrong_values():
        print(moesaic.remove_expert(mixture, name, output, texts=text_paths(text) if text else None, router=router))
