"""The only module that imports mlflow: a sweep's MLflow experiment, its parent run, and the runs below it.

Runs are written in one of two ways. A local SQL store of a known schema takes whole batches as rows of
MLflow's own tables, in one transaction; every other store is spoken to through MLflow's client. Tests hold
both ways to equal stores, table by table, for each revision in ``VERIFIED_SCHEMAS``.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import sqlalchemy as sa
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.store.db.base_sql_model import Base
from mlflow.store.db.utils import _get_schema_version
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.uri import append_to_uri_path

from runner.errors import TrackingError
from runner.tracking.location import TRAINING, Location
from runner.tracking.rows import TABLES, rows, statement
from runner.tracking.runs import MAX_TAG, Kind, Run

# Alembic revisions of MLflow's schema for which rows written here equal the client's. 3.17: dc11669786a5.
VERIFIED_SCHEMAS = frozenset({"dc11669786a5"})

# Requests in flight to a server, to hide the network's delay. Against `mlflow server` on sqlite two are as
# good as eight, because its own work, 20 times the client's, decides.
REQUESTS = 4
NOTE = "mlflow.note.content"
CACHE_KIB = 1 << 16
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
        store = client._tracking_client.store
    bulk = bulk and _takes_rows(store)
    tags = {"sweep": sweep, **tags}
    experiment_id = _experiment(client, sweep, location.artifacts, question)
    parent_id, described = _parent(client, experiment_id, sweep, tags)
    child_tags = {**tags, "mlflow.parentRunId": parent_id}
    find = _find_in_tables if bulk else _find_by_search
    known: dict[str, Known] = {}
    for key, run in list(find(client, experiment_id, kind)):  # read whole before anything is written
        held = known.get(key)
        if held is None or (run.complete, run.revision) > (held.complete, held.revision):
            held, known[key] = known.get(key), run
        if held is not None:  # a repeated request or two exports at once made it twice
            client.delete_run((run if known[key] is held else held).run_id)
    return Session(client, experiment_id, parent_id, kind, child_tags, known, bulk, described)


def write(session: Session, runs: Sequence[Run]) -> int:
    """Write what the store does not have yet, and return how many runs that was.

    A run of the same key and revision is left as it is, or completed if an export ended in the middle of it;
    an older one is replaced.
    """
    todo = [run for run in runs if _is_news(run, session.known.get(run.key))]
    if session.bulk:
        _insert(session, todo)
    elif len(todo) > 1 and not _is_sql(session.client._tracking_client.store):
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


def _is_sql(store: Any) -> bool:
    return isinstance(store, SqlAlchemyStore)


def _takes_rows(store: Any) -> bool:
    return (
        type(store) is SqlAlchemyStore  # not the one with workspaces, whose rows are others
        and store.engine.dialect.name == "sqlite"
        and _get_schema_version(store.engine) in VERIFIED_SCHEMAS
    )


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


def _find_by_search(client: MlflowClient, experiment_id: str, kind: Kind) -> Iterator[tuple[str, Known]]:
    token = None
    while token != "":
        found = client.search_runs([experiment_id], f"tags.kind = '{kind}'", max_results=PAGE, page_token=token)
        for run in found:
            tags, complete = run.data.tags, run.info.status != "RUNNING"
            yield tags[KEY_TAG[kind]], Known(run.info.run_id, tags["finished_at"], complete)
        token = found.token or ""


def _find_in_tables(client: MlflowClient, experiment_id: str, kind: Kind) -> Iterator[tuple[str, Known]]:
    """The same, without reading the runs' metrics: 10,000 runs in 0.2 s instead of 17."""
    runs, tags = (Base.metadata.tables[name] for name in ("runs", "tags"))
    key, kinds, revision = (tags.alias(name) for name in ("key", "kind", "revision"))
    query = sa.select(key.c.value, runs.c.run_uuid, revision.c.value, runs.c.status).select_from(
        runs.join(kinds, sa.and_(kinds.c.run_uuid == runs.c.run_uuid, kinds.c.key == "kind"))
        .join(key, sa.and_(key.c.run_uuid == runs.c.run_uuid, key.c.key == KEY_TAG[kind]))
        .join(revision, sa.and_(revision.c.run_uuid == runs.c.run_uuid, revision.c.key == "finished_at"))
    )
    query = query.where(
        runs.c.experiment_id == int(experiment_id), runs.c.lifecycle_stage == "active", kinds.c.value == kind
    )
    with client._tracking_client.store.engine.connect() as database:
        for cell, run_id, finished_at, status in database.execute(query):
            yield cell, Known(run_id, finished_at, status != "RUNNING")


def _run_id() -> str:
    """32 hexadecimal digits, as MLflow's own, but increasing: rows then go to the end of the indexes, not all over."""
    return f"{time.time_ns():016x}{secrets.token_hex(8)}"


def _insert(session: Session, runs: Sequence[Run]) -> None:
    """Write runs as rows, in one transaction; a run that is replaced keeps its id."""
    if not runs:
        return
    client = session.client
    root = client.get_experiment(session.experiment_id).artifact_location
    replaced = [session.known[run.key].run_id for run in runs if run.key in session.known]
    ids = {run.key: session.known[run.key].run_id if run.key in session.known else _run_id() for run in runs}
    made = rows(
        [(ids[run.key], run) for run in runs],
        session.experiment_id,
        session.tags,
        lambda run_id: append_to_uri_path(root, run_id, SqlAlchemyStore.ARTIFACTS_FOLDER_NAME),
    )
    with client._tracking_client.store.engine.connect() as database:
        # As MLflow's own sessions; outside the transaction, where sqlite would ignore the first.
        database.execute(sa.text("PRAGMA foreign_keys = ON"))
        database.execute(sa.text("PRAGMA busy_timeout = 20000"))
        # Keys begin with a metric's name, so rows go all over their indexes: sqlite's own 2 MB would not hold them.
        database.execute(sa.text(f"PRAGMA cache_size = -{CACHE_KIB}"))
        for name in reversed(tuple(TABLES)):
            column = Base.metadata.tables[name].c.run_uuid
            for start in range(0, len(replaced), PAGE):
                part = replaced[start : start + PAGE]
                database.execute(sa.delete(Base.metadata.tables[name]).where(column.in_(part)))
        for name in TABLES:
            if made[name]:
                database.exec_driver_sql(statement(name), made[name])
        database.commit()
    session.known.update((run.key, Known(ids[run.key], run.revision, True)) for run in runs)


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
