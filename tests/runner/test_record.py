from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from experiments.experiment import Metric, Outcome, Params
from runner.planning import Cell
from runner.record import STATUSES, Failure, schema, to_table
from tests.runner.fakes import CATALOGUE, TOY
from tests.runner.made import cell, records


class Typed(Params):
    number: float = Field(1.0, description="a number", json_schema_extra={"unit": "nats"})
    whole: int = 1
    flag: bool = False
    word: Literal["a", "b"] = "a"
    maybe: int | None = None
    either: int | float = 2
    sizes: tuple[int, ...] = (64, 64)
    bounded: Annotated[float, Field(gt=0)] = 0.5
    mixed: int | str = 3
    table: dict[str, int] = Field({})


TYPED = replace(TOY, name="typed", params=Typed)
FLOAT = st.floats(width=64)


def typed_table(params: Typed, outcome: Any) -> pa.Table:
    one = Cell("0" * 16, "c", "typed", params, CATALOGUE.target("near"), 7)
    extra = {"batch_id": "b", "seconds": 1.0, "device": "cpu", "worker": "w", "code_version": "v"}
    return to_table(TYPED, "s", [one], [outcome], **extra)


def test_parameters_become_columns_of_their_type() -> None:
    layout = schema(TYPED)
    kinds = {name: layout.field(name).type for name in Typed.model_fields}
    assert kinds == {
        "target": pa.string(),
        "number": pa.float64(),
        "whole": pa.int64(),
        "flag": pa.bool_(),
        "word": pa.string(),
        "maybe": pa.int64(),
        "either": pa.float64(),
        "sizes": pa.string(),
        "bounded": pa.float64(),
        "mixed": pa.string(),
        "table": pa.string(),
    }
    row = typed_table(Typed(target="near", table={"b": 1, "a": 2}), Outcome()).to_pylist()[0]
    assert (row["sizes"], row["maybe"], row["either"], row["mixed"]) == ("[64, 64]", None, 2.0, "3")
    assert row["table"] == '{"a": 2, "b": 1}'


def test_every_field_says_its_role_unit_and_meaning() -> None:
    layout = schema(TYPED)
    roles = {"identity", "parameter", "label", "metric", "fit", "provenance", "nested"}
    assert {f.metadata[b"role"].decode() for f in layout} == roles
    assert all({b"unit", b"meaning"} <= set(f.metadata) for f in layout)
    assert layout.field("number").metadata == {
        b"role": b"parameter",
        b"unit": b"nats",
        b"meaning": b"a number",
    }
    assert layout.field("coverage_se").metadata[b"error_of"] == b"coverage"
    about = {b"experiment": b"typed", b"version": b"1", b"objective": b"loss", b"objective_of": b'["rate"]'}
    assert layout.metadata == about


@pytest.mark.parametrize(
    "name", ["seed", "coverage", "curves", "shape", "n", "n_ok", "pareto", "nuisance_best", "sweep_best_gap"]
)
def test_a_name_that_is_taken_is_refused(name: str) -> None:
    clash = replace(TOY, metrics=(*TOY.metrics, Metric(name, "", "")))
    with pytest.raises(ValueError, match=name):
        schema(clash)


def test_what_the_experiment_does_not_declare_is_refused() -> None:
    with pytest.raises(ValueError, match=r"metric 'covrage'"):
        typed_table(Typed(target="near"), Outcome(metrics={"covrage": 1.0}))
    with pytest.raises(ValueError, match=r"label 'coverage'"):
        typed_table(Typed(target="near"), Outcome(labels={"coverage": "x"}))


def test_cells_and_outcomes_must_match() -> None:
    with pytest.raises(ValueError, match="2 cells, but 1"):
        records_of([cell(0), cell(1)], [Outcome()])


def records_of(cells: Any, outcomes: Any) -> pa.Table:
    return to_table(TOY, "s", cells, outcomes, batch_id="b", seconds=1, device="cpu", worker="w", code_version="v")


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    steps, dim, modes = draw(st.integers(0, 4)), draw(st.integers(1, 3)), draw(st.integers(0, 3))

    def numbers(*shape: int) -> np.ndarray:
        size = math.prod(shape)
        return np.array(draw(st.lists(FLOAT, min_size=size, max_size=size)), float).reshape(shape)

    curves = {name: numbers(steps) for name in draw(st.sets(st.sampled_from(["loss", "gradient"])))}
    mode = {name: numbers(modes) for name in ("weight", "target_mass", "fitted_mass", "log_width")}
    draws = draw(st.none() | st.just(numbers(draw(st.integers(0, 3)), dim)))
    return Outcome(
        status=draw(st.sampled_from(["ok", "diverged"])),
        error=draw(st.none() | st.text()),
        metrics=draw(st.dictionaries(st.sampled_from(["coverage", "coverage_se", "sharpness", "loss"]), FLOAT)),
        labels=draw(st.dictionaries(st.just("shape"), st.text(st.characters(codec="utf-8")))),
        curve_steps=np.arange(steps) * 10 if curves else None,
        curves=curves,
        modes={**mode, "captured": np.arange(modes) % 2 == 0} if modes else {},
        samples=draws,
        mean=draw(st.none() | st.just(numbers(dim))),
        covariance=draw(st.none() | st.just(numbers(dim, dim))),
    )


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit of each number, NaN and the sign of zero included."""
    return np.array_equal(np.asarray(a, float).view(np.int64), np.asarray(b, float).view(np.int64)) or (
        np.array_equal(a, b, equal_nan=True) and np.array_equal(np.signbit(a), np.signbit(b))
    )


@settings(max_examples=60, deadline=None)
@given(held=st.lists(outcomes() | st.builds(Failure, st.sampled_from(["failed", "timeout"]), st.text()), max_size=4))
def test_a_record_holds_all_of_an_outcome_through_parquet(held: list[Any], tmp_path_factory: Any) -> None:
    cells = [cell(i, seed=i * 3, rate=0.1 * (i + 1)) for i in range(len(held))]
    path = tmp_path_factory.mktemp("record") / "x.parquet"
    pq.write_table(records_of(cells, held), path)
    back = pq.read_table(path)
    assert back.schema.equals(schema(TOY))
    for one, outcome, row in zip(cells, held, back.to_pylist(), strict=True):
        assert (row["cell_id"], row["seed"], row["status"]) == (one.id, one.seed, outcome.status)
        assert row["rate"] == one.params.rate
        assert row["hidden"] == json.dumps(list(one.params.hidden))
        assert row["fit_seconds"] == 1 / len(cells)
        for name in ("coverage", "coverage_se", "sharpness", "loss"):
            value = outcome.metrics.get(name)
            assert (row[name] is None) == (value is None)
            assert value is None or same(row[name], value)
        assert row["shape"] == outcome.labels.get("shape")
        expected = [
            (int(s), n, v) for n, c in outcome.curves.items() for s, v in zip(outcome.curve_steps, c, strict=True)
        ]
        got = [(entry["step"], entry["metric"], entry["value"]) for entry in row["curves"] or []]
        assert [e[:2] for e in got] == [e[:2] for e in expected]
        assert same([e[2] for e in got], [e[2] for e in expected])
        for name in ("weight", "target_mass", "fitted_mass", "log_width", "captured"):
            assert same([m[name] for m in row["modes"] or []], outcome.modes.get(name, []))
        assert [m["mode"] for m in row["modes"] or []] == list(range(len(outcome.modes.get("weight", []))))
        for column, array in (("q_mean", outcome.mean), ("q_covariance", outcome.covariance)):
            assert (row[column] is None) == (array is None)
            assert array is None or same(row[column], array.ravel())
        assert (row["q_samples"] is None) == (outcome.samples is None)
        if outcome.samples is not None:
            with np.errstate(over="ignore"):
                draws = outcome.samples.astype(np.float32)
            assert len(row["q_samples"]) == len(draws)
            assert same(np.array(row["q_samples"]).reshape(draws.shape), draws)


def test_what_an_outcome_does_not_say_of_its_modes_is_null_beside_one_that_does() -> None:
    plain = TOY.run_batch([cell(0)], "cpu")[0]
    measured = replace(plain, modes={**plain.modes, "forward_coverage_nats": np.array([0.25, np.nan])})
    table = records_of([cell(i) for i in range(4)], [plain, measured, Failure("failed", "boom"), plain])
    found = [[mode["forward_coverage_nats"] for mode in row["modes"] or []] for row in table.to_pylist()]
    assert str(found) == "[[None, None], [0.25, nan], [], [None, None]]"
    assert {mode["reverse_shape_nats"] for row in table.to_pylist() for mode in row["modes"] or []} == {None}


def test_draws_beyond_single_precision_become_infinite() -> None:
    row = typed_table(Typed(target="near"), Outcome(samples=np.array([[1e300], [-1e300]]))).to_pylist()[0]
    assert row["q_samples"] == [[np.inf], [-np.inf]]


def test_an_undecodable_message_is_kept_readable() -> None:
    row = typed_table(Typed(target="near"), Failure("failed", "no file '\udcff.csv'")).to_pylist()[0]
    assert row["error"] == "no file '\\udcff.csv'"
    assert row["status"] in STATUSES


def test_a_curve_must_have_a_value_for_each_step() -> None:
    outcome = Outcome(curve_steps=np.arange(3), curves={"loss": np.zeros(2)})
    with pytest.raises(ValueError, match="curve 'loss'"):
        typed_table(Typed(target="near"), outcome)


def test_a_batch_of_one_point_in_time() -> None:
    table = records([cell(0), cell(1)], minute=3)
    assert len(table["finished_at"].unique()) == 1
