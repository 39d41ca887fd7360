"""The models that a finished run left: its experts, and what was made of them."""

from __future__ import annotations

from pathlib import Path

from moesaic.members import CausalLM, load_member
from moesaic.mixture import Mixture
from moesaic.moe import expert_names, is_sparse


def load_models(path: str | Path) -> list[CausalLM]:
    """Load a model, and before it the models of which it was made, where these are at hand.

    Args:
        path: A finished run, of which the experts that it trained are loaded; a saved mixture, which holds its members;
            or any other checkpoint, which stands for itself.

    Returns:
        The experts or members, and last the one model, each by its name.

    Raises:
        CheckpointError: If there is no whole checkpoint.
    """
    model = load_member(path, name="mixture" if (Path(path) / "run.json").exists() else None)
    network = model.network
    if isinstance(network, Mixture):
        members = zip(network.member_names, network.members, strict=True)
        return [*(CausalLM(name, member, model.tokenizer) for name, member in members), model]
    names = expert_names(network.config) if is_sparse(network.config) else []
    folders = {name: Path(path) / "stages" / f"expert-{name}" / "model" for name in names}
    experts = [
        CausalLM(name, load_member(folder).network, model.tokenizer)
        for name, folder in folders.items()
        if folder.is_dir()
    ]
    return [*experts, model]
