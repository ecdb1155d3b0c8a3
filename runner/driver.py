"""Run a sweep: plan it, hand its batches to an executor, keep every record, make the tables, tell MLflow."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Literal

from runner import provenance
from runner.batch import Batch
from runner.checkpoint import Keeper
from runner.comparison import markdown
from runner.executors import BatchResult, Executor, open_executor
from runner.executors.background import in_background
from runner.experiment import Catalogue
from runner.hints import with_options
from runner.lookup import comparisons
from runner.options import Options, cut, plan_sweep, training_code
from runner.planning import Plan
from runner.profile import Profile
from runner.progress import Listener, Silent, Tally
from runner.provenance import Provenance, code_version
from runner.report import load_libraries, write_report
from runner.spec import Sweep
from runner.store.checkpoints import CheckpointFolder
from runner.store.files import remove_leftovers
from runner.store.lock import hold
from runner.store.manifest import SWEEP, write_manifest, write_text
from runner.store.shards import shard_paths, write_shard
from runner.store.tables import Counts, write_tables
from runner.store.targets import write_targets
from runner.tracking.follower import Follower
from runner.tracking.location import locate
from runner.tracking.request import ExportReport, Request, choose_mode, provenance_tags
from runner.worker import Context

Stopped = Literal["interrupted", "fail_fast"] | None


@dataclass(frozen=True)
class Report:
    """What a run came to.

    Args:
        folder: where its tables are.
        ran: how many cells ran now, by status.
        counts: how many cells of the whole plan have which status.
        seconds: wall time of all of it.
        stopped: before every cell had run: by Ctrl-C (``interrupted``) or by ``fail_fast``.
        phases: wall seconds of each part of the run.
        tracking: what MLflow got; None when it is off.
        command: runs the same sweep again.
    """

    folder: Path
    plan: Plan
    ran: Mapping[str, int]
    counts: Counts
    seconds: float
    stopped: Stopped
    phases: Mapping[str, float]
    tracking: ExportReport | None
    command: str

    @property
    def all_ok(self) -> bool:
        return self.counts.ok == self.counts.cells


@dataclass
class _InTraining:
    """Keeps the checkpoints of long batches, and tells how far these are."""

    kept: CheckpointFolder
    tally: Tally
    listener: Listener

    def read(self, batch: Batch) -> list[bytes]:
        return self.kept.read(cell.id for cell in batch.cells)

    def write(self, batch: Batch, file: bytes) -> None:
        saved = self.kept.write(file)
        self.tally.under_way[batch.cells[0].id] = saved.gained * batch.seconds * len(saved.cells) / len(batch.cells)
        self.listener.advance(self.tally)


@dataclass
class _Clock:
    """Wall seconds by the name of the phase."""

    phases: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + time.perf_counter() - started


def run(sweep: Sweep, catalogue: Catalogue, options: Options | None = None, listener: Listener | None = None) -> Report:
    """Run every cell of a sweep that has no record yet, and make its tables.

    Batches may finish in any order; each becomes one shard, whole or not at all, before it counts. Ctrl-C
    ends the run in good order: what finished is kept, and the same call continues from there.

    Raises:
        SweepError: the sweep is refused; nothing was started.
        StoreError: another process works in the results folder, or the disk is full.
        ExecutorError: Ray cannot start, or lost its workers for good.
    """
    options, listener, clock, profile = options or Options(), listener or Silent(), _Clock(), Profile()
    began = datetime.now(UTC)
    folder = options.results.resolve() / sweep.name
    with clock("plan"):
        shards, plan = shard_paths(folder), plan_sweep(sweep, catalogue, options)
    with hold(folder), _stoppable():
        if shard_paths(folder) != shards:  # another run has ended meanwhile
            plan = plan_sweep(sweep, catalogue, options)
        code = training_code(catalogue)
        context = Context(sweep.name, code_version(), code, options.profile, options.checkpoint_seconds)
        training = _InTraining(_left_behind(folder, plan, context, listener), Tally(len(plan.todo), work=0.0), listener)
        with _opened(catalogue, context, options, training) as executor, ExitStack() as beside:
            if plan.todo:
                executor.start()
            with clock("prepare"):
                origin = provenance.collect()
                remove_leftovers(folder)
                write_text(folder / SWEEP, sweep.to_yaml())
                follower = _follow(folder, plan, origin, options, listener)
                if follower:
                    beside.enter_context(follower)
            with clock("cells"):
                ran, stopped = _run_cells(
                    executor, plan, catalogue, options, folder, training, follower, listener, profile
                )
            # How many a cluster has is not asked for the sake of tables that no worker had a part in.
            workers = executor.workers if ran else options.workers
            if plan.todo and not stopped:
                in_background(executor.close)  # workers end while the tables are made
            with clock("tables"):
                counts = _tabulate(folder, plan, origin, options, began, workers, clock.phases, listener)
            with clock("report"):
                if counts.tabulated:  # of a run that was stopped too: an older page would not fit the tables
                    write_report(folder)
            with clock("mlflow"):
                tracking, stopped = _finish(follower, folder, counts, stopped, listener)
        if options.profile:
            profile.write(folder, clock.phases, workers or 1)
    seconds = (datetime.now(UTC) - began).total_seconds()
    return Report(folder, plan, ran, counts, seconds, stopped, clock.phases, tracking, options.command)


def _tabulate(
    folder: Path,
    plan: Plan,
    origin: Provenance,
    options: Options,
    began: datetime,
    workers: int | None,
    phases: Mapping[str, float],
    listener: Listener,
) -> Counts:
    """Make the tables from all records that there are, and the manifest that says how they came about."""
    sweep = plan.sweep
    counts = write_tables(
        folder,
        [cell.id for cell in plan.cells],
        sweep=sweep.name,
        nuisance=sweep.nuisance,
        samples=options.samples,
        report=listener.say,
    )
    targets = {cell.target.name: cell.target for cell in plan.cells}
    if options.samples:
        write_targets(folder, targets.values())
    else:
        (folder / "targets.parquet").unlink(missing_ok=True)
    settings = {name: value for name, value in vars(options).items() if name != "command"}
    if options.tracking_uri:
        settings["tracking_uri"] = provenance.redact(options.tracking_uri)
    write_manifest(
        folder,
        sweep.name,
        origin,
        counts,
        started=began,
        finished=datetime.now(UTC),
        settings={**settings, "workers": workers, "phases": phases},
        targets={name: target.digest for name, target in targets.items()},
    )
    return counts


def _left_behind(folder: Path, plan: Plan, context: Context, listener: Listener) -> CheckpointFolder:
    """What an earlier run left of batches in training, of cells that still have no record."""
    checkpoints = CheckpointFolder(folder, context.code_digest, listener.say)
    if checkpoints.cells:
        todo = {cell.id for cell in plan.todo}
        checkpoints.forget(cell.id for cell in plan.cells if cell.id not in todo)
        if left := len(todo & checkpoints.begun.keys()):
            listener.say(
                f"{left:,} cells go on from where an earlier run left their training, on the same kind of device."
            )
    return checkpoints


def _opened(catalogue: Catalogue, context: Context, options: Options, checkpoints: Keeper) -> Executor:
    return open_executor(
        options.executor,
        catalogue.experiments,
        context,
        checkpoints=checkpoints,
        workers=options.workers,
        address=options.address,
    )


def _follow(folder: Path, plan: Plan, origin: Provenance, options: Options, listener: Listener) -> Follower | None:
    """Start the process that exports to MLflow beside the sweep, so that the fits never wait for it."""
    mode, notice = choose_mode(options.mlflow, len(plan.cells))
    if notice:
        listener.say(notice)
    if mode is None:
        return None
    location = locate(options.tracking_uri, options.results)
    cells = [cell.id for cell in plan.cells]
    return Follower(Request(folder, location, mode, cells, provenance_tags(origin)))


def _finish(
    follower: Follower | None, folder: Path, counts: Counts, stopped: Stopped, listener: Listener
) -> tuple[ExportReport | None, Stopped]:
    """Wait until MLflow has what is there, or Ctrl-C; a sweep never fails because MLflow does."""
    if follower is None:
        return None, stopped
    status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED" if counts.ok == counts.cells else "FAILED"
    try:
        report = follower.finish("KILLED" if stopped else status, markdown(comparisons(folder)))
    except KeyboardInterrupt:
        report, stopped = follower.given_up(), "interrupted"
    for problem in (*report.problems, *([report.error] if report.error else [])):
        listener.say(problem, style="yellow")
    return report, stopped


def _run_cells(
    executor: Executor,
    plan: Plan,
    catalogue: Catalogue,
    options: Options,
    folder: Path,
    training: _InTraining,
    follower: Follower | None,
    listener: Listener,
    profile: Profile,
) -> tuple[Counter[str], Stopped]:
    """Run what is left, a shard for each batch; returns how many ended how, and why it stopped early."""
    tally, checkpoints = training.tally, training.kept
    libraries: Future[None] | None = None
    try:
        # Only who asks for GPUs waits here until Ray has counted them.
        gpus = executor.gpus if any(grid.todo and grid.grid.resources.gpu for grid in plan.grids) else 0.0
        batches = cut(plan, catalogue, options, executor.workers, gpus, checkpoints.begun) if plan.todo else ()
        tally.work = sum(batch.seconds for batch in batches)
        listener.begin(tally)
        with closing(executor.run(batches)) as results:
            for result in results:
                if libraries is None:
                    libraries = in_background(load_libraries)  # seconds that need not be spent after the last cell
                write_shard(folder, profile.take(result))
                checkpoints.forget(cell.id for cell in result.batch.cells)
                statuses = Counter(result.table["status"].to_pylist())
                if not tally.failed and set(statuses) != {"ok"}:
                    listener.say(_first_failure(result, options), style="yellow")
                tally.add(statuses, result.batch.cells[0].id, result.batch.seconds)
                tally.exported = follower.poll().exported if follower else None
                listener.advance(tally)
                if options.fail_fast and tally.failed:
                    return tally.statuses, "fail_fast"
        if libraries is not None:
            libraries.result()  # the tables need some of them, and no thread may be in the way of Ray's end
    except KeyboardInterrupt:
        kept = f"; {len(checkpoints.begun):,} cells go on from their last checkpoint" if checkpoints.begun else ""
        listener.say(f"\nInterrupted: finished cells are kept, batches in flight are dropped{kept}.")
        if tally.done or plan.done:
            listener.say("Tables and report are made of what there is; Ctrl-C again leaves them as they are.")
        return tally.statuses, "interrupted"
    finally:
        listener.end()
    return tally.statuses, None


def _first_failure(result: BatchResult, options: Options) -> str:
    """Told at once, since the rest may fail alike: what happened, and how to see it happen alone."""
    table = result.table
    row = next(i for i, status in enumerate(table["status"].to_pylist()) if status != "ok")
    cell = result.batch.cells[row]
    given = ", ".join(f"{name}={value}" for name, value in cell.params.model_dump(exclude_defaults=True).items())
    error = (table["error"][row].as_py() or "no reason given").splitlines()[0]
    return (
        f"First cell that is not ok: {cell.id} {table['status'][row].as_py()}: {error}\n"
        f"  {cell.experiment} with {given}, seed={cell.seed}\n"
        f"  Alone: {with_options(options.command, f'--cell {cell.id}', '--executor inline')}"
    )


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM, which clusters and service managers send, end a run as well as Ctrl-C does."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread, where Python allows no handler
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
