"""Cells in, outcomes out: stack, train, evaluate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from experiments.checkpoint import Checkpoint
from experiments.experiment import Cell, Checkpoints, Outcome
from experiments.stacked_analytic import stack
from experiments.targets import Points
from experiments.vae.cost import BLOCK, judged_at_once, trained_at_once, widths
from experiments.vae.data import Views, chunk_steps, fresh, noise, resampled, split
from experiments.vae.data_term import DataTerm, LearnedNoise, data_term
from experiments.vae.judge import Judgement, judge
from experiments.vae.likelihood import binarised, of_name
from experiments.vae.network import Layer, Stack, Widths, initialise
from experiments.vae.train import Schedule, Trace, kl_weight_factor, train


def run(cells: Sequence[Cell], device: str, checkpoints: Checkpoints | None = None) -> list[Outcome]:
    """Train and evaluate cells of one batch key, in their order."""
    size = trained_at_once(cells[0].params, cells[0].target, device)
    outcomes: list[Outcome] = []
    for start in range(0, len(cells), size):
        outcomes += _run_stack(cells[start : start + size], device, checkpoints)
    return outcomes


def _run_stack(cells: Sequence[Cell], device: str, checkpoints: Checkpoints | None) -> list[Outcome]:
    views = Views.of([*cells, *[cells[-1]] * (-len(cells) % BLOCK)])
    model, term, trace = _train(views, device, Checkpoint(cells, checkpoints))
    lasted = _steps_lasted(model, trace)
    noise_std = _noise_std(views, term, model.flat)
    judged: list[Judgement] = []
    size = judged_at_once(cells[0].params, cells[0].target, device)
    for start in range(0, len(views.cells), size):
        part = slice(start, start + size)
        alive = lasted[part].to(device) >= cells[0].params.steps
        encoder, decoder = (_evaluable(network, part, alive) for network in (model.encoder, model.decoder))
        scattered = of_name(cells[0].params.likelihood, torch.where(alive, noise_std[part], 1.0))
        judged += judge(views.select(part), encoder, decoder, scattered)
    steps, curves = _curves(views, trace)
    return [
        _outcome(cell, int(lasted[k]), judged[k], steps, {name: curve[k] for name, curve in curves.items()})
        for k, cell in enumerate(cells)
    ]


def _train(views: Views, device: str, checkpoint: Checkpoint) -> tuple[Stack, DataTerm, Trace]:
    params, dim = views.cells[0].params, views.targets[0].dim
    dtype = getattr(torch, params.dtype)
    shape = Widths(*widths(params, dim))
    model = Stack.zeros(len(views.cells), shape, dtype, device)
    initialise(model.every_layer, views.generators("init", device))
    chunk = chunk_steps(params.batch_size, max(dim, params.latent_dim))
    streams = {"data": views.generators("data", device), "noise": views.generators("noise", device)}
    draws = noise(params.latent_dim, params.batch_size, chunk, streams["noise"], dtype)
    term = data_term(params.likelihood, views.per_cell(lambda p: p.noise_std, model.flat), dim)
    trace = train(
        model,
        shape,
        _schedule(views, model.flat),
        term,
        _data(views, chunk, dtype, device, streams["data"]),
        draws,
        steps=params.steps,
        batch_size=params.batch_size,
        streams=streams,
        checkpoint=checkpoint,
    )
    return model, term, trace


def _noise_std(views: Views, term: DataTerm, like: Tensor) -> Tensor:
    """Of each cell's decoder as it is generated from and scored, ``(K,)``, float64."""
    if isinstance(term, LearnedNoise):
        return term.log_std.double().exp()
    return views.per_cell(lambda p: p.noise_std, like.new_empty(0, dtype=torch.float64))


def _schedule(views: Views, like: Tensor) -> Schedule:
    return Schedule(
        learning_rate=views.per_cell(lambda p: p.learning_rate, like),
        kl_weight=views.per_cell(lambda p: p.kl_weight, like),
        kl_warmup=views.per_cell(lambda p: p.kl_warmup, like),
        free_bits=views.per_cell(lambda p: p.free_bits, like),
    )


def _data(
    views: Views, chunk: int, dtype: torch.dtype, device: str, streams: Sequence[torch.Generator]
) -> Iterator[Tensor]:
    """Minibatches, in chunks ``(K, D, C, N)``."""
    params = views.cells[0].params
    if isinstance(views.targets[0], Points):
        minibatches = resampled(_point_sets(views, dtype, device), params.batch_size, chunk, streams)
        if params.likelihood == "bernoulli":
            return (binarised(points, streams) for points in minibatches)
        return minibatches
    mixture = stack(views.targets, dtype, device)
    if params.train_size is None:
        return fresh(mixture, params.batch_size, chunk, streams)
    return resampled(list(mixture.draw(params.train_size, streams).mT), params.batch_size, chunk, streams)


def _point_sets(views: Views, dtype: torch.dtype, device: str) -> list[Tensor]:
    """The training points ``(n, D)`` of each cell; one tensor where they are the same."""
    sets: dict[tuple[int, int | None], Tensor] = {}
    rows = []
    for cell, target in zip(views.cells, views.targets, strict=True):
        key = id(target), None if cell.params.train_size is None else cell.seed
        if key not in sets:
            sets[key] = torch.as_tensor(split(target, cell.params.train_size, cell.seed)[0], dtype=dtype, device=device)
        rows.append(sets[key])
    return rows


def _steps_lasted(model: Stack, trace: Trace) -> Tensor:
    """How many steps stayed finite, ``(K,)``: all of them only if the parameters ended finite too."""
    sound = torch.stack([torch.isfinite(p).flatten(1).all(dim=1) for p in model.parameters]).all(dim=0)
    last = int(trace.steps[-1])
    return torch.where(sound, trace.lasted, trace.lasted.clamp(max=last)).cpu()


def _evaluable(network: Sequence[Layer], part: slice, alive: Tensor) -> list[Layer]:
    """Some cells' layers; a diverged cell's are 0, evaluated with the others and dropped."""
    keep = alive.view(-1, 1, 1)
    parts = [(layer.weight[part], layer.bias[part]) for layer in network]
    return [Layer(torch.where(keep, weight, 0.0), torch.where(keep, bias, 0.0)) for weight, bias in parts]


def _curves(views: Views, trace: Trace) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Minibatch means at a few steps, evenly spaced in their logarithm; each curve is ``(K, S)``."""
    params = views.cells[0].params
    error, kl = trace.error.cpu().double(), trace.kl.cpu().double()
    log_volume = torch.tensor([c.log_volume for c in views.coordinates], dtype=torch.float64)
    noise_std, dim = views.per_cell(lambda p: p.noise_std, error), views.targets[0].dim
    term = data_term(params.likelihood, noise_std, dim).loss(error)
    distortion = data_term("gaussian", noise_std, dim).loss(error) if params.likelihood == "mse" else term
    schedule = _schedule(views, error)
    kl_weight = schedule.kl_weight * kl_weight_factor(schedule, torch.as_tensor(trace.steps).unsqueeze(1), params.steps)
    floor = torch.where(schedule.free_bits > 0, schedule.free_bits, -math.inf).unsqueeze(-1)
    jacobian = 0.0 if params.likelihood == "mse" else log_volume
    curves = {
        "loss": term + jacobian + kl_weight * kl.maximum(floor).sum(dim=-1),
        "rate": kl.sum(dim=-1),
        "distortion": distortion + log_volume,
    }
    return trace.steps, {name: curve.T.numpy() for name, curve in curves.items()}


def _outcome(cell: Cell, lasted: int, judged: Judgement, steps: np.ndarray, curves: dict[str, np.ndarray]) -> Outcome:
    sound = lasted >= cell.params.steps and math.isfinite(judged.metrics["objective"])
    if not sound:
        return Outcome(
            status="diverged",
            error=f"diverged at step {lasted}: the loss or a parameter left the finite numbers;"
            f" try a learning_rate below {cell.params.learning_rate:g}",
            labels=judged.labels,
            curve_steps=steps,
            curves=curves,
        )
    return Outcome(
        metrics=judged.metrics,
        labels=judged.labels,
        curve_steps=steps,
        curves=curves,
        modes=judged.modes,
        samples=judged.samples,
    )
