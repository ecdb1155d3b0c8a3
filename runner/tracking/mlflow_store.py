"""A sweep's MLflow experiment, its parent run, and the runs below it, by MLflow's client.

Runs are written in one of two ways. A local SQL store of a known schema takes whole batches as rows of
MLflow's own tables, see ``mlflow_tables.py``; every other store is spoken to through MLflow's client. Tests hold
both ways to equal stores, table by table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from runner.errors import TrackingError
from runner.tracking.location import TRAINING, Location
from runner.tracking.runs import MAX_TAG, Kind, Run

try:
    from runner.tracking import mlflow_tables
except ImportError:  # another MLflow may keep elsewhere what its tables need: slower, and as right
    mlflow_tables = None  # type: ignore[assignment]

# Requests in flight to a server, to hide the network's delay. Against `mlflow server` on sqlite two are as
# good as eight, because its own work, 20 times the client's, decides.
REQUESTS = 4
NOTE = "mlflow.note.content"
PAGE = 1000  # runs in one answer to a search
ENTITIES = 1000  # metrics, params and tags in one log_batch, mlflow.utils.validation
PARAMS = 100
KEY_TAG: Mapping[Kind, str] = {"cell": "cell_id", "configuration": "configuration_id"}


@dataclass(frozen=True, slots=True)
class Known:
    """A run that the store already has."""

    run_id: str
    revision: str
    complete: bool


@dataclass(frozen=True)
class Session:
    """An open sweep: its experiment and parent run, and the runs that are already there (kept up to date)."""

    client: MlflowClient
    experiment_id: str
    parent_id: str
    kind: Kind
    tags: Mapping[str, str]
    known: dict[str, Known]
    bulk: bool
    local: bool
    described: bool


def open_session(
    location: Location, sweep: str, kind: Kind, tags: Mapping[str, str], question: str = "", bulk: bool = True
) -> Session:
    """Open a sweep's experiment and parent run, made if absent, and look up the runs it has: once, in bulk.

    Args:
        location: the store.
        sweep: names the experiment and the parent run.
        kind: what the runs below the parent are, each with its own keys.
        tags: what the parent and every run below it are tagged with.
        question: described in a new experiment.
        bulk: False writes through the client even where rows could be inserted.

    Raises:
        TrackingError: the experiment was deleted in MLflow.
    """
    with _only_one_makes_the_schema(location):
        client = MlflowClient(tracking_uri=location.uri)
        bulk = bulk and mlflow_tables is not None and mlflow_tables.takes_rows(client)
    tags = {"sweep": sweep, **tags}
    experiment_id = _experiment(client, sweep, location.artifacts, question)
    parent_id, described = _parent(client, experiment_id, sweep, tags)
    child_tags = {**tags, "mlflow.parentRunId": parent_id}
    find = mlflow_tables.find if bulk else _find_by_search
    known: dict[str, Known] = {}
    # Read whole before anything is written.
    for key, run_id, revision, complete in list(find(client, experiment_id, kind, KEY_TAG[kind])):
        run = Known(run_id, revision, complete)
        held = known.get(key)
        if held is None or (run.complete, run.revision) > (held.complete, held.revision):
            held, known[key] = known.get(key), run
        if held is not None:  # a repeated request or two exports at once made it twice
            client.delete_run((run if known[key] is held else held).run_id)
    return Session(client, experiment_id, parent_id, kind, child_tags, known, bulk, location.is_sql, described)


def write(session: Session, runs: Sequence[Run]) -> int:
    """Write what the store does not have yet, and return how many runs that was.

    A run of the same key and revision is left as it is, or completed if an export ended in the middle of it;
    an older one is replaced.
    """
    todo = [run for run in runs if _is_news(run, session.known.get(run.key))]
    if session.bulk:
        _insert(session, todo)
    elif len(todo) > 1 and not session.local:
        with ThreadPoolExecutor(REQUESTS) as pool:
            for future in [pool.submit(_send, session, run) for run in todo]:
                future.result()
    else:
        for run in todo:
            _send(session, run)
    return len(todo)


def finish(session: Session, status: str, note: str | None, artifacts: Iterable[tuple[Path, str | None]]) -> list[str]:
    """Describe and end the parent run; returns what could not be attached, in sentences.

    A note of None leaves the parent run as it is described.
    """
    problems = []
    for path, folder in artifacts:
        try:
            session.client.log_artifact(session.parent_id, str(path), folder)
        except Exception as error:  # a server may keep artifacts where this machine cannot write
            problems.append(f"{path.name} could not be attached to the parent run: {error}")
    if note is not None:
        session.client.set_tag(session.parent_id, NOTE, note[:MAX_TAG])
    session.client.set_terminated(session.parent_id, status)
    return problems


def page(location: Location, session: Session) -> str | None:
    """The address of the parent run in MLflow's pages, if a server shows them."""
    if location.scheme not in ("http", "https"):
        return None
    place = f"/#/experiments/{session.experiment_id}/runs/{session.parent_id}?{TRAINING}"
    return location.hide(location.uri).rstrip("/") + place


def _only_one_makes_the_schema(location: Location) -> AbstractContextManager[Any]:
    """MLflow's migrations of a new sqlite file crash when two processes run them at once."""
    database = location.database
    if database is None:
        return nullcontext()
    database.parent.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(database.with_name(f".{database.name}.lock"))


def _experiment(client: MlflowClient, name: str, artifacts: str | None, question: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        tags = {"mlflow.experimentKind": "custom_model_development"}  # opens on the runs, not on traces
        if question:
            tags[NOTE] = question
        return str(client.create_experiment(name, artifacts, tags))
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"the MLflow experiment '{name}' was deleted; bring it back with "
            f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`, or rename the sweep"
        )
    return str(experiment.experiment_id)


def _parent(client: MlflowClient, experiment_id: str, sweep: str, tags: Mapping[str, str]) -> tuple[str, bool]:
    """The id of the parent run, and whether it has a description."""
    found = client.search_runs([experiment_id], "tags.kind = 'sweep'", max_results=1, order_by=["start_time ASC"])
    if not found:
        run = client.create_run(experiment_id, tags={**tags, "kind": "sweep"}, run_name=sweep)
        return str(run.info.run_id), False
    client.update_run(found[0].info.run_id, status="RUNNING")
    return str(found[0].info.run_id), NOTE in found[0].data.tags


def _is_news(run: Run, known: Known | None) -> bool:
    return known is None or run.revision > known.revision or (run.revision == known.revision and not known.complete)


def _find_by_search(
    client: MlflowClient, experiment_id: str, kind: Kind, key_tag: str
) -> Iterator[tuple[str, str, str, bool]]:
    token = None
    while token != "":
        found = client.search_runs([experiment_id], f"tags.kind = '{kind}'", max_results=PAGE, page_token=token)
        for run in found:
            tags, complete = run.data.tags, run.info.status != "RUNNING"
            yield tags[key_tag], run.info.run_id, tags["finished_at"], complete
        token = found.token or ""


def _insert(session: Session, runs: Sequence[Run]) -> None:
    """Write runs as rows; a run that is replaced keeps its id."""
    if not runs:
        return
    replaced = {run.key: session.known[run.key].run_id for run in runs if run.key in session.known}
    named = [(replaced.get(run.key) or mlflow_tables.new_id(), run) for run in runs]
    mlflow_tables.insert(session.client, session.experiment_id, session.tags, named, list(replaced.values()))
    session.known.update((run.key, Known(run_id, run.revision, True)) for run_id, run in named)


def _send(session: Session, run: Run) -> None:
    """Write one run through the client: made, filled, ended, so that an interrupted one can be completed."""
    client, known = session.client, session.known.get(run.key)
    if known is not None and known.revision != run.revision:
        client.delete_run(known.run_id)  # its params cannot be changed, nor its metrics taken back
        known = None
    if known is None:
        tags = {**session.tags, **run.tags}
        created = client.create_run(session.experiment_id, run.start, tags, run.name)
        known = Known(created.info.run_id, run.revision, False)
        session.known[run.key] = known
    for metrics, params in _log_batches(run):
        client.log_batch(known.run_id, metrics=metrics, params=params)
    client.set_terminated(known.run_id, run.status, run.end)
    session.known[run.key] = Known(known.run_id, run.revision, True)


def _log_batches(run: Run) -> Iterator[tuple[list[Metric], list[Param]]]:
    """The run's metrics and params in pieces that one request may hold."""
    params = [Param(key, value) for key, value in run.params.items()]
    metrics = [Metric(p.name, p.value, p.timestamp, p.step) for p in run.metrics]
    while metrics or params:
        head = params[:PARAMS]
        room = ENTITIES - len(head)
        yield metrics[:room], head
        metrics, params = metrics[room:], params[PARAMS:]
