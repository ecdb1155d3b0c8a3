"""The one place where the runner meets the experiments: the verbs of the command line, as functions.

>>> from runner import load_sweep, plan, read_cells, run        # doctest: +SKIP
>>> report = run(load_sweep("quickstart"))                      # doctest: +SKIP
>>> read_cells("quickstart").groupby("divergence").coverage.mean()  # doctest: +SKIP
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from experiments.catalogue import CATALOGUE
from experiments.targets import Mixture
from runner import spec
from runner.errors import NoResultsError, SweepError
from runner.hints import shown
from runner.options import Options, cut, plan_sweep, training_code
from runner.planning import Plan, make_plan
from runner.progress import Listener
from runner.spec import Sweep

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from runner.batch import Batch
    from runner.checkpoint import Begun
    from runner.driver import Report
    from runner.tracking.request import ExportReport
    from runner.verification import Verified


def load_sweep(
    sweep: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), seeds: int | Sequence[int] | None = None
) -> Sweep:
    """Read a sweep: the name of a shipped one, or the path of a YAML file.

    Args:
        sweep: name, path, the YAML text itself, or the mapping that it would hold.
        overrides: as ``--set`` takes them: ``"steps=500,1000"``.
        seeds: how many, or which, in place of the file's.

    Raises:
        SweepError: lists everything that is wrong with it.
    """
    return spec.load_sweep(_source(sweep), CATALOGUE, spec.parse_overrides(overrides), seeds)


def plan(sweep: Sweep | str | Path, options: Options | None = None) -> Plan:
    """The cells of a sweep, or of one given as to ``load_sweep``, and which are left to run; starts nothing."""
    return plan_sweep(_loaded(sweep), CATALOGUE, options or Options())


def begun(plan: Plan, options: Options) -> Mapping[str, Begun]:
    """The cells that are left to run and would go on from a checkpoint, by id."""
    from runner.store.checkpoints import begun as kept

    found = kept(options.results / plan.sweep.name, training_code(CATALOGUE))
    return {cell.id: found[cell.id] for cell in plan.todo if cell.id in found} if found else {}


def batches(
    plan: Plan, options: Options, workers: int, gpus: float = 0.0, begun: Mapping[str, Begun] | None = None
) -> tuple[Batch, ...]:
    """The batches in which what is left of the plan would run."""
    return cut(plan, CATALOGUE, options, workers, gpus, begun)


def run(sweep: Sweep | str | Path, options: Options | None = None, listener: Listener | None = None) -> Report:
    """Run the cells that have no record yet; write tables and report; log to MLflow. See ``runner.driver``."""
    from runner.driver import run as run_sweep

    return run_sweep(_loaded(sweep), CATALOGUE, options, listener)


def verify(
    results: Path, quick: bool = False, topics: Sequence[str] = (), progress: Callable[[str], None] = lambda done: None
) -> tuple[Sequence[Verified], Path | None]:
    """Compare numbers that are known with what modesweep obtains; write the table into ``results/verify``.

    Args:
        quick: leave out the rows that take long.
        topics: beginnings of the names of the rows to compare, of which no table is written; all unless given.
        progress: called with what has just been computed.

    Returns:
        The rows, and the folder of the table.

    Raises:
        SweepError: no row has such a name.
        StoreError: the table cannot be written.
    """
    from experiments.verification import rows
    from experiments.verification import verify as compare
    from runner.verification import check_writable, write_files
    from runner.worker import one_thread

    every = rows(quick)
    unknown = [topic for topic in topics if not any(row.name.startswith(topic) for row in every)]
    if unknown:
        known = ", ".join(dict.fromkeys(row.topic for row in every))
        raise SweepError(f"no row of the table begins with {' or '.join(map(repr, unknown))}. Topics: {known}")
    chosen = [row for row in every if not topics or row.name.startswith(tuple(topics))]
    if not topics:
        check_writable(results)
    with one_thread():
        found = compare(chosen, progress)
    return found, None if topics else write_files(found, results)


def _loaded(sweep: Sweep | str | Path) -> Sweep:
    return sweep if isinstance(sweep, Sweep) else load_sweep(sweep)


def _source(sweep: str | Path | Mapping[str, Any]) -> str | Path | Mapping[str, Any]:
    """A shipped name wins unless it is written as a path, so that a folder of results never hides it."""
    if not isinstance(sweep, str) or "\n" in sweep or "/" in sweep or sweep.endswith((".yaml", ".yml")):
        return sweep
    shipped = CATALOGUE.sweeps
    if sweep in shipped:
        return shipped[sweep]
    near = difflib.get_close_matches(sweep, shipped, n=1)
    guess = f" Did you mean '{near[0]}'?" if near else ""
    raise SweepError(
        f"'{sweep}' is not a shipped sweep.{guess} Shipped: {', '.join(shipped)}. "
        f"A file is given by its path, such as ./{sweep if Path(sweep).is_file() else f'{sweep}.yaml'}"
    )


def explain_no_results(error: NoResultsError) -> str:
    """What is not there, and the command that makes it where its sweep is a shipped one."""
    if error.sweep not in CATALOGUE.sweeps:
        return str(error)
    return f"{error.said} Next: modesweep run {error.sweep}{error.looking}"


def report_json(report: Report) -> dict[str, Any]:
    """What a run came to, as plain values."""
    tracking = report.tracking
    return {
        "sweep": report.plan.sweep.name,
        "folder": str(report.folder),
        "ran": dict(report.ran),
        "counts": vars(report.counts),
        "seconds": round(report.seconds, 3),
        "stopped": report.stopped,
        "phases": {name: round(seconds, 3) for name, seconds in report.phases.items()},
        "mlflow": None if tracking is None else vars(tracking),
    }


def show(cell_id: str, results: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """Everything known of the cell whose id begins so, in sections, and how to run it alone if its sweep still can.

    Raises:
        NoResultsError: no sweep has such a cell, or several cells' ids begin so.
    """
    from runner import lookup

    return lookup.show(cell_id, results, _hindrance)


def _hindrance(folder: Path, cell_id: str) -> str | None:
    from runner.store.manifest import SWEEP

    try:
        sweep = load_sweep(folder / SWEEP)
    except SweepError as error:
        return str(error).splitlines()[0]
    try:
        make_plan(sweep, CATALOGUE, {}, max_cells=sweep.size, only_cell=cell_id)
    except SweepError:
        return f"the cell is of an earlier plan, and {shown(folder)}/{SWEEP} has it no more"
    return None


def export(
    sweep: str,
    results: Path,
    tracking_uri: str | None,
    mode: Literal["cells", "groups", "off"] | None,
    progress: Callable[[int, int], None],
) -> ExportReport:
    """Write a sweep's records into any MLflow; what is there already is not written twice.

    Raises:
        StoreError: there are no such results.
        TrackingError: MLflow cannot be reached; what was exported stays.
    """
    from runner.comparison import markdown
    from runner.lookup import comparisons
    from runner.provenance import collect
    from runner.store.reading import find_folder, read_table
    from runner.store.shards import read_status
    from runner.tracking.export import export as export_records
    from runner.tracking.location import locate
    from runner.tracking.request import Request, choose_mode, provenance_tags

    folder = find_folder(sweep, results)
    tables = (folder / "cells.parquet").is_file()  # a sweep that was killed has records, but no tables yet
    cells = read_table("cells", folder)["cell_id"].to_pylist() if tables else list(read_status(folder))
    chosen, _ = choose_mode(mode, len(cells))
    if chosen is None:
        raise SweepError("--mlflow off exports nothing: choose cells or groups")
    location = locate(tracking_uri, folder.resolve().parent)
    # Without tables there is no plan to go by, and a run that is under way adds to the records meanwhile.
    request = Request(folder, location, chosen, cells if tables else None, provenance_tags(collect()))
    return export_records(request, progress, markdown(comparisons(folder)) if tables else None)


def listing(kind: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows of what ``modesweep list`` shows."""
    experiments = CATALOGUE.experiments.values()
    if kind == "targets":
        targets = [CATALOGUE.brief(name) for name in CATALOGUE.target_names]
        return ("target", "dim", "modes", "unit", "about"), [
            (t.name, str(t.dim), "?" if t.modes is None else str(t.modes), t.unit, t.about) for t in targets
        ]
    if kind == "sweeps":
        sweeps = [(name, load_sweep(path)) for name, path in CATALOGUE.sweeps.items()]
        return ("sweep", "cells", "question"), [
            (name, f"{sweep.size:,}", " ".join(sweep.question.split())) for name, sweep in sweeps
        ]
    if kind == "experiments":
        return ("experiment", "parameter", "default", "allowed", "meaning"), [
            (experiment.name, name, *_parameter(info), info.description or "")
            for experiment in experiments
            for name, info in experiment.params.model_fields.items()
        ]
    if kind == "metrics":
        seen = {metric.name: (metric, experiment) for experiment in experiments for metric in experiment.metrics}
        return ("metric", "unit", "better", "meaning"), [
            (metric.name, metric.unit, metric.better or "", metric.meaning) for metric, _ in seen.values()
        ]
    if kind in ("divergences", "families"):
        name = "divergence" if kind == "divergences" else "family"
        rows = [
            (str(value), experiment.name, _meaning(experiment.params.model_fields[name], value))
            for experiment in experiments
            if name in experiment.params.model_fields
            for value in get_args(experiment.params.model_fields[name].annotation)
        ]
        told = 3 if any(meaning for _, _, meaning in rows) else 2
        return (name, "in", "meaning")[:told], [row[:told] for row in rows]
    data = [t for t in map(CATALOGUE.brief, CATALOGUE.target_names) if t.points is not None]
    return ("data", "dim", "points", "unit", "about"), [
        (t.name, str(t.dim), str(t.points), t.unit, t.about) for t in data
    ]


def references(target: str | None) -> list[tuple[str, Mapping[str, float]]]:
    """What the metrics say of known fits of a target: their names, and the metrics by name.

    Raises:
        SweepError: there is no such target, or it is no mixture.
    """
    found = CATALOGUE.target(target) if target in CATALOGUE.target_names else None
    if not isinstance(found, Mixture):
        densities = [name for name in CATALOGUE.target_names if CATALOGUE.brief(name).modes is not None]
        mixtures = [name for name in densities if isinstance(CATALOGUE.target(name), Mixture)]
        why = "references are fits of one target: choose it by --target NAME."
        if found is not None:
            why = f"'{target}' is no mixture, and references leave out or widen a mixture's components."
        elif target is not None:
            near = difflib.get_close_matches(target, mixtures, n=1)
            why = f"'{target}' is not a shipped target." + (f" Did you mean '{near[0]}'?" if near else "")
        raise SweepError(f"{why} Mixtures: {', '.join(mixtures)}")
    from experiments.references import references as ladder
    from runner.worker import one_thread

    with one_thread():
        return [(row.name, row.metrics) for row in ladder(found)]


def _meaning(info: FieldInfo, value: Any) -> str:
    """What a parameter's value means, where its field says so."""
    extra = info.json_schema_extra
    meanings = extra.get("meanings") if isinstance(extra, dict) else None
    return str(meanings.get(value, "")) if isinstance(meanings, dict) else ""


def _parameter(info: FieldInfo) -> tuple[str, str]:
    """A parameter's default and what it may be."""
    allowed = " ".join([_kind(info.annotation), *map(_bound, info.metadata)])
    return "required" if info.is_required() else str(info.default), allowed.strip()


def _kind(annotation: Any) -> str:
    """A type in words; that a value may be left out is seen from its default."""
    first, *more = get_args(annotation) or (annotation,)
    origin = get_origin(annotation)
    if origin is Annotated:
        bounds = [bound for part in more for bound in getattr(part, "metadata", [part])]
        return " ".join([_kind(first), *map(_bound, bounds)])
    if origin is Literal:
        return " ".join(map(str, (first, *more)))
    if origin is tuple:
        return f"list of {_kind(first)}"
    return " ".join(_kind(part) for part in (first, *more) if part is not type(None)) if more else str(first.__name__)


def _bound(bound: Any) -> str:
    """A constraint as a reader would write it: ``> 0``."""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "min_length": "length >=", "max_length": "length <="}
    said = [f"{sign} {value}" for name, sign in signs.items() if (value := getattr(bound, name, None)) is not None]
    return " ".join(said) or str(getattr(bound, "pattern", None) or bound)
