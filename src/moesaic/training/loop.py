"""The one training loop."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from moesaic.data import Sampler, TrainingBatch
from moesaic.errors import TrainingError
from moesaic.multi_task_mixture import MultiTaskMixture
from moesaic.routed_mixture import RoutedMixture
from moesaic.training.averaging import WeightAverage
from moesaic.training.checkpoints import load_checkpoint, save_checkpoint
from moesaic.training.memory import keep_memory_warm
from moesaic.training.objectives import Losses, Objective
from moesaic.training.optimizer import build_optimizers, set_learning_rate
from moesaic.training.options import TrainingOptions, freeze, resolve_precision
from moesaic.training.processes import is_main, num_processes, rank, training_device
from moesaic.training.records import OnStep, StepRecord


def fit(
    network: nn.Module,
    sampler: Sampler,
    objective: Objective,
    options: TrainingOptions,
    *,
    checkpoint_folder: Path | None = None,
    on_step: OnStep | None = None,
    per_member: bool = False,
) -> list[StepRecord]:
    """Train a network in place.

    Every batch and every random choice is a function of the seed and the step, so that a run that continues from a
    checkpoint ends with the same bits as one that was never stopped. Under ``torchrun`` each process works on its
    share of every batch. On Linux the process keeps the memory it once had for reuse, and gives it back when it ends
    (:func:`moesaic.training.keep_memory_warm`).

    Args:
        network: What is trained; parameters whose learning rate is scaled by 0 are frozen.
        sampler: Gives the batch of each step.
        objective: What is minimized.
        options: How.
        checkpoint_folder: Where to continue from and to write checkpoints; without it there are none.
        on_step: Told of every step.
        per_member: Whether the parameters of several members are stacked, one along the first axis of each
            (:func:`moesaic.training.fit_stacked`): gradients are then clipped, and weights decay, member by member.

    Returns:
        One record a step, those before a continued checkpoint included.

    Raises:
        ValueError: If the batch cannot be shared out evenly, or everything is frozen.
        TrainingError: If the loss is no longer a finite number.
    """
    num_parts = num_processes() * options.gradient_accumulation_steps
    if options.batch_size % num_parts:
        raise ValueError(
            f"batch_size ({options.batch_size}) must be a multiple of the number of processes ({num_processes()}) "
            f"times gradient_accumulation_steps ({options.gradient_accumulation_steps})."
        )
    keep_memory_warm()
    device = training_device()
    freeze(network, options.learning_rate_scales)
    network.to(device).train()
    optimizers = build_optimizers(network, options, per_member=per_member)
    clip = clip_each_member if per_member else clip_gradients
    average = WeightAverage(options)
    history = load_checkpoint(checkpoint_folder, network, optimizers, average) if checkpoint_folder else []
    step_losses = _share(_StepLosses(network, objective), device)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]

    for step in range(len(history), options.num_steps):
        torch.manual_seed(options.seed * 1_000_003 + step)
        learning_rate = set_learning_rate(optimizers, step, options)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        parts = _accumulate(step_losses, sampler.batch(step).to(device), options)
        loss = parts.pop("loss")
        if not math.isfinite(loss):
            raise TrainingError(
                f"Step {step + 1} of {options.num_steps}: the loss is {loss} at learning rate {learning_rate:.3g}. "
                f"Lower learning_rate ({options.learning_rate:g}) or raise num_warmup_steps "
                f"({options.num_warmup_steps}); the last checkpoint is kept."
            )
        clip(parameters, options.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
        average.add(network, step)
        num_tokens = (step + 1) * options.tokens_per_step
        history.append(StepRecord(step + 1, loss, parts, learning_rate, num_tokens))
        if on_step is not None:
            on_step(history[-1])
        due = options.checkpoint_every and (step + 1) % options.checkpoint_every == 0
        if checkpoint_folder and due and is_main():
            save_checkpoint(checkpoint_folder, network, optimizers, average, history)
    average.put_into(network)
    network.eval().requires_grad_(True)
    return history


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> None:
    """Scale gradients down to ``max_norm`` where they are longer together, as PyTorch's ``clip_grad_norm_`` does.

    On a CPU, gradients that are short enough are left alone; PyTorch multiplies them by 1, which changes nothing and
    takes as long as measuring them.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    total_norm = nn.utils.get_total_norm(gradients)
    # On a GPU, looking at the norm would have the processor wait for it.
    short = total_norm.device.type == "cpu" and bool(max_norm / (total_norm + 1e-6) >= 1)
    if not short:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, total_norm)


def clip_each_member(parameters: Sequence[nn.Parameter], max_norm: float) -> None:
    """Clip the gradients of stacked members, the first axis of each parameter, as if each were alone."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    squares = torch.stack([gradient.flatten(1).square().sum(dim=1) for gradient in gradients])
    factors = (max_norm / (squares.sum(dim=0).sqrt() + 1e-6)).clamp(max=1)  # (member,)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))


class _StepLosses(nn.Module):
    """The objective as a module, so that DistributedDataParallel can wrap it."""

    def __init__(self, network: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.network = network
        self.objective = objective

    def forward(self, batch: TrainingBatch) -> Losses:
        return self.objective(self.network, batch)


def _share(step_losses: _StepLosses, device: torch.device) -> nn.Module:
    if num_processes() == 1:
        return step_losses
    return DistributedDataParallel(
        step_losses,
        device_ids=[device.index] if device.type == "cuda" else None,
        find_unused_parameters=_leaves_members_out(step_losses),
    )


def _leaves_members_out(network: nn.Module) -> bool:
    """Whether a member may get no row in one process and some in another; it then has gradients in the second alone."""
    chooses = (module for module in network.modules() if isinstance(module, (RoutedMixture, MultiTaskMixture)))
    return any(mixture.top_k is not None for mixture in chooses)


def _accumulate(step_losses: nn.Module, batch: TrainingBatch, options: TrainingOptions) -> dict[str, float]:
    """Add up the gradients of a batch, part by part; return the mean losses over parts and processes."""
    num_parts = options.gradient_accumulation_steps
    rows = options.batch_size // (num_parts * num_processes())
    dtype = resolve_precision(options.precision, batch.device)
    sums: dict[str, Tensor] = {}
    for part in range(num_parts):
        first = (part * num_processes() + rank()) * rows
        last_part = part == num_parts - 1
        wait = (
            step_losses.no_sync()
            if isinstance(step_losses, DistributedDataParallel) and not last_part
            else contextlib.nullcontext()
        )
        with wait:
            with torch.autocast(batch.device.type, dtype, enabled=dtype != torch.float32):
                losses: Losses = step_losses(batch.rows(first, first + rows))
            (losses.total / num_parts).backward()
        for name, value in {"loss": losses.total, **losses.parts}.items():
            sums[name] = sums.get(name, 0) + value.detach() / num_parts
    return _mean_over_processes(sums)


def _mean_over_processes(values: Mapping[str, Tensor]) -> dict[str, float]:
    stacked = torch.stack([value.float() for value in values.values()])
    if num_processes() > 1:
        distributed.all_reduce(stacked)
        stacked /= num_processes()
    return dict(zip(values, stacked.tolist(), strict=True))
