from __future__ import annotations

from pathlib import Path

import pytest

from experiments.catalogue import CATALOGUE
from experiments.experiment import Params
from runner.canonical import OPERATIONAL, canonical
from runner.errors import SweepError
from runner.experiment import Catalogue
from runner.planning import make_plan
from runner.spec import load_sweep


def test_it_is_what_the_runner_asks_for() -> None:
    catalogue: Catalogue = CATALOGUE
    assert list(catalogue.experiments) == ["kl_fit", "vae", "gradients"]
    assert {"bimodal", "ring8", "grid25", "gmm40", "faithful"} <= set(catalogue.target_names)
    assert all(catalogue.target(name).name == name for name in catalogue.target_names)


@pytest.mark.parametrize("name", CATALOGUE.experiments)
def test_each_experiment_is_whole(name: str) -> None:
    experiment = CATALOGUE.experiments[name]
    assert experiment.name == name
    assert issubclass(experiment.params, Params)
    metrics = [metric.name for metric in experiment.metrics]
    assert len(set(metrics)) == len(metrics)
    assert experiment.objective in metrics
    assert not set(metrics) & (set(experiment.params.model_fields) | set(experiment.labels))


@pytest.mark.parametrize("name", CATALOGUE.experiments)
def test_every_parameter_says_what_it_is(name: str) -> None:
    params = CATALOGUE.experiments[name].params
    assert all(info.description for info in params.model_fields.values())
    assert "Args:" not in (params.__doc__ or "")  # nothing is said twice


@pytest.mark.parametrize("name", CATALOGUE.experiments)
def test_no_parameter_is_a_setting_of_the_run(name: str) -> None:
    assert not set(CATALOGUE.experiments[name].params.model_fields) & OPERATIONAL


@pytest.mark.parametrize("name", CATALOGUE.experiments)
def test_defaults_are_defined_everywhere_and_have_a_canonical_form(name: str) -> None:
    experiment = CATALOGUE.experiments[name]
    target = CATALOGUE.target("bimodal")
    params = experiment.params(target="bimodal")
    experiment.check(params, target)
    canonical(params.model_dump())
    assert hash(experiment.batch_key(params, target)) == hash(experiment.batch_key(params, target))
    for device in ("cpu", "cuda"):
        needed = [experiment.bytes_of_stack(params, target, cells, device) for cells in (1, 16, 32, 512)]
        assert 0 < needed[0] <= needed[1] <= needed[2] <= needed[3]
    assert experiment.seconds_per_cell(params, target) > 0


def test_a_shipped_name_cannot_be_defined_again() -> None:
    definition = {"weights": [1], "means": [[0]], "covariances": [[[1]]]}
    assert CATALOGUE.define("mine", definition, Path()).dim == 1
    with pytest.raises(ValueError, match="shipped target"):
        CATALOGUE.define("ring8", definition, Path())


@pytest.mark.parametrize("name", CATALOGUE.sweeps)
def test_each_shipped_sweep_can_be_planned_and_written_back(name: str) -> None:
    sweep = load_sweep(CATALOGUE.sweeps[name], CATALOGUE)
    assert sweep.name == name
    assert sweep.question
    plan = make_plan(sweep, CATALOGUE, {})
    again = make_plan(load_sweep(sweep.to_yaml(), CATALOGUE), CATALOGUE, {})
    assert [cell.id for cell in plan.todo] == [cell.id for cell in again.todo]


@pytest.mark.parametrize(
    ("name", "family"),
    [("components", "gaussian_mixture"), ("family_df", "student_t"), ("flow_bins", "flow"), ("flow_hidden", "flow")],
)
def test_an_axis_of_sizes_is_refused_where_no_family_has_them(name: str, family: str) -> None:
    def sweep(axes: dict[str, list[object]], **overrides: list[object]) -> None:
        grid = {"experiment": "kl_fit", "fixed": {"target": "bimodal"}, "axes": axes}
        load_sweep({"name": "sizes", "grids": [grid]}, CATALOGUE, overrides=overrides)

    says = rf'grids\[0\].{name}: only family "{family}" uses it'
    for families in ({}, {"family": ["gaussian_full", "gaussian_diagonal"]}):
        with pytest.raises(SweepError, match=says):
            sweep({name: [4, 8], **families})
    with pytest.raises(SweepError, match=says):
        sweep({}, **{name: [4, 8]})
    sweep({name: [4, 8], "family": ["gaussian_full", family]})
    sweep({name: [4]})


def test_quickstart_and_smoke_are_shipped() -> None:
    assert {"quickstart", "smoke"} <= set(CATALOGUE.sweeps)
