"""Training a routed mixture: its experts, its router, both together; and what to look at afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from moesaic.data import Examples
from moesaic.routed_mixture import RoutedMixture
from moesaic.training.classification import Classification, regression, sample_examples
from moesaic.training.loop import fit
from moesaic.training.mixture_losses import LIKELIHOOD, MixtureObjective
from moesaic.training.options import TrainingOptions
from moesaic.training.records import OnStep, StepRecord
from moesaic.types import Routing

MIXTURE_ROUTER_ONLY = {"*": 0.0, "router.*": 1.0, "router.encoder.*": 0.0}
"""Learning-rate scales that train a routed mixture's router alone; an encoder that it reads through stays frozen."""

MIXTURE_MEMBERS_ONLY = {"router.*": 0.0}
"""Learning-rate scales that train the members of a routed mixture alone, under the router that it has."""

DEAD_SHARE = 0.1
"""A member whose share of the weight is below this part of an even one is as good as dead."""

SATURATED = 0.01
"""A router that leaves less than this share of a row's weight to all but the first choice is saturated."""


def fit_experts(
    mixture: RoutedMixture, samples: Mapping[str, Examples], options: TrainingOptions
) -> dict[str, list[StepRecord]]:
    """Train members in place, each by itself on examples of its own: the first of three stages.

    The router has no part in it. Train it next (:func:`fit_router`), then everything together (:func:`fit_jointly`);
    each stage is of use alone, too, and :func:`fit_jointly` with nothing before it trains from scratch.

    Args:
        mixture: The members' mixture.
        samples: What each member learns from, by its name; those that are not named stay as they are.
        options: How each is trained.

    Returns:
        One record a step, by the member's name.

    Raises:
        ValueError: If a member is named that is not there, or one has nothing to train.
        DataError: If a member has fewer examples than a batch.
    """
    unknown = [name for name in samples if name not in mixture.member_names]
    if unknown:
        raise ValueError(
            f"There are examples for {', '.join(unknown)}, and the members are {', '.join(mixture.member_names)}. "
            "Name the examples as the members."
        )
    objective = regression if mixture.regression else Classification()
    members = dict(zip(mixture.member_names, mixture.members, strict=True))
    histories = {}
    for name, examples in samples.items():
        if not any(True for _ in members[name].parameters()):
            raise ValueError(f"{name} has no parameters to train, as a fitted estimator has none. Leave it out.")
        sampler = sample_examples(members[name], examples, batch_size=options.batch_size, seed=options.seed)
        histories[name] = fit(members[name], sampler, objective, options)
    return histories


def fit_router(
    mixture: RoutedMixture,
    examples: Examples,
    options: TrainingOptions,
    *,
    objective: MixtureObjective = LIKELIHOOD,
    on_step: OnStep | None = None,
) -> list[StepRecord]:
    """Train the router in place, the members left as they are; an encoder that it reads through stays as it is, too.

    Where the right member of each row is known, the router is an ordinary classifier: train ``mixture.router`` by
    :func:`moesaic.training.fit` with a :class:`Classification` instead.

    Args:
        mixture: What is trained.
        examples: Rows of all kinds that the mixture is to answer; held out from the members, who else seem surer
            than they are.
        options: How; its ``learning_rate_scales`` come on top of what is frozen here.
        objective: What is minimized.
        on_step: Told of every step.

    Raises:
        ValueError: If the router has nothing to train, or cannot learn from the objective, or the inputs are texts.
    """
    return _fit(mixture, examples, options, objective, MIXTURE_ROUTER_ONLY, on_step)


def fit_jointly(
    mixture: RoutedMixture,
    examples: Examples,
    options: TrainingOptions,
    *,
    objective: MixtureObjective = LIKELIHOOD,
    on_step: OnStep | None = None,
) -> list[StepRecord]:
    """Train router and members together in place, from where they are: fine-tuned, or from scratch.

    Members that begin alike divide the rows among them only slowly: from scratch, give them different initial weights,
    and the objective a :class:`RouterBalance` if some are left without rows (:func:`router_alarms`).

    Args:
        mixture: What is trained.
        examples: Rows of all kinds.
        options: How; by ``learning_rate_scales`` parts are frozen or slowed down, such as ``{"members.0.*": 0}``.
        objective: What is minimized.
        on_step: Told of every step.

    Raises:
        ValueError: If there is nothing to train, the router cannot learn from the objective, or the inputs are texts.

    Example:
        >>> import torch
        >>> from moesaic.members import ModuleMember
        >>> from moesaic.routed_mixture import FeatureRouter
        >>> inputs = torch.linspace(-1, 1, 64).unsqueeze(1)
        >>> members = [ModuleMember(str(slope), torch.nn.Linear(1, 1)) for slope in (-1, 1)]
        >>> mixture = RoutedMixture(members, FeatureRouter(num_features=1, num_members=2), regression=True)
        >>> options = TrainingOptions(num_steps=100, batch_size=32, learning_rate=0.05)
        >>> history = fit_jointly(mixture, Examples(inputs, inputs.abs().squeeze(1)), options)
        >>> history[-1].loss < history[0].loss
        True
    """
    return _fit(mixture, examples, options, objective, {"router.encoder.*": 0.0}, on_step)


def _fit(
    mixture: RoutedMixture,
    examples: Examples,
    options: TrainingOptions,
    objective: MixtureObjective,
    scales: Mapping[str, float],
    on_step: OnStep | None,
) -> list[StepRecord]:
    if isinstance(examples.inputs, (list, tuple)):
        raise ValueError(
            "A routed mixture is trained on tensors that router and members both read, and the inputs are texts. Give "
            "it their features, or fit it by fit_em, whose experts and router each read texts in their own way."
        )
    options = replace(options, learning_rate_scales=dict(scales) | dict(options.learning_rate_scales))
    sampler = sample_examples(mixture, examples, batch_size=options.batch_size, seed=options.seed)
    return fit(mixture, sampler, objective, options, on_step=on_step)


def router_alarms(routing: Routing, member_names: list[str]) -> list[str]:
    """What is wrong with a router, as sentences that say what to do; none where all is well.

    Args:
        routing: Of rows of all kinds, such as ``mixture.route(inputs)``.
        member_names: The members, in their order.

    Example:
        >>> import torch
        >>> for alarm in router_alarms(Routing.dense(torch.tensor([[9.0, 0.0], [8.0, 0.0]])), ["busy", "idle"]):
        ...     print(alarm)
        idle is dead: it gets 0.0% of the weight, and an even share is 50.0%. Raise router_aux_loss_coef, ...
        The router is saturated: on average its first choice has 100.0% of a row's probability. ...
    """
    weights = routing.weights.detach().float().flatten(0, -2)
    shares = weights.mean(dim=0) / weights.mean(dim=0).sum()
    alarms = [
        f"{name} is dead: it gets {share:.1%} of the weight, and an even share is {1 / len(shares):.1%}. Raise "
        "router_aux_loss_coef, train the member longer before the router, or leave it out."
        for name, share in zip(member_names, shares.tolist(), strict=True)
        if share < DEAD_SHARE / len(shares)
    ]
    first: Float[Tensor, " row"] = routing.probabilities.detach().flatten(0, -2).max(dim=-1).values
    if len(shares) > 1 and 1 - first.mean() < SATURATED:
        alarms.append(
            f"The router is saturated: on average its first choice has {float(first.mean()):.1%} of a row's "
            "probability. If it is to learn on, next to no gradient reaches it: raise router_z_loss_coef, or lower its "
            "learning rate (learning_rate_scales)."
        )
    return alarms
