"""Batches as Ray Tune trials, on this machine or on a cluster: beside `haste` the only module that imports Ray.

Batches and records take one short way, and no worker needs the driver's disk::

    driver --offer--> exchange (an actor beside the driver) --fetch--> trial: worker.run
    driver <-collect-- exchange                             <-deliver-- trial   (records)
                                                            <-tell----- trial   (checkpoints of long batches)

Tune decides where and when a trial runs; a searcher hands it one batch per trial, as workers come free.
Of each batch Tune itself sees only an id and a few numbers: it keeps every trial's configuration and last
result for as long as it runs, and writes them to its state file.
"""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from runner import collector, worker
from runner.batch import Batch
from runner.checkpoint import Keeper, KeepsNothing
from runner.errors import ExecutorError
from runner.executors import BatchResult, haste, heap, setup
from runner.executors.background import in_background, take_back_sigterm
from runner.executors.exchange import Delivery, Exchange, Progress
from runner.executors.work import Work, results, to_stream
from runner.experiment import Experiment
from runner.worker import Context

POLL_SECONDS = 0.5
STOP_SECONDS = 3.0


@dataclass(frozen=True)
class Cluster:
    """Ray as the driver sees it: what there is to give, the exchange, and a folder for Tune's own notes.

    ``private`` if this process started it, with its own environment, and for one sweep.
    """

    resources: Mapping[str, float]
    exchange: Any
    folder: str
    private: bool


class TuneExecutor:
    """See ``Executor``. Uses the Ray that this process has, else joins ``address``, else starts its own."""

    def __init__(
        self,
        experiments: Mapping[str, Experiment],
        context: Context,
        *,
        checkpoints: Keeper | None = None,
        workers: int | None = None,
        address: str | None = None,
    ) -> None:
        self._experiments = experiments
        self._context = context
        self._checkpoints = checkpoints or KeepsNothing()
        self._address = address or os.environ.get("RAY_ADDRESS")
        self._workers = workers if self._address else workers or setup.cores()
        self._cluster: Future[Cluster] | None = None
        self._closed = threading.Event()
        self._keeper: threading.Thread | None = None

    @property
    def workers(self) -> int:
        """Batches that may run at the same time; of a cluster, its CPUs, for which it must be reached."""
        if self._workers is None:
            self._workers = max(1, int(self._connected().resources.get("CPU", 1)))
        return self._workers

    @property
    def gpus(self) -> float:
        """As many as Ray has counted, for which it must have started."""
        return float(self._connected().resources.get("GPU", 0.0))

    def start(self) -> None:
        """Begin to start or join Ray in the background; a failure shows when it is needed."""
        if self._cluster is None:
            self._cluster, self._closed = Future(), threading.Event()
            self._keeper = threading.Thread(target=self._hold, args=(self._cluster, self._closed), daemon=True)
            self._keeper.start()

    def run(self, batches: Sequence[Batch]) -> Generator[BatchResult, None, None]:
        """Run the batches as Tune trials, the first ones first; results come in the order they finish.

        Raises:
            ExecutorError: Ray cannot start or be reached, has not the resources that a batch asks for, or
                its workers cannot run batches at all (for lack of a package, for instance).
        """
        if not batches:
            return
        cluster = self._connected()
        take_back_sigterm()
        setup.check_resources(batches, cluster.resources)
        work, cells = Work(deque(batches), self._checkpoints.read), sum(len(batch.cells) for batch in batches)
        pack = partial(_pack, self._experiments, self._context)
        fit = in_background(_fit, work, cluster, pack, self.workers)
        try:
            yield from results(work, cells, fit, partial(_collect, cluster), self._checkpoints.write, self._failed)
        finally:
            work.stopped = True
            wait_for([fit], timeout=STOP_SECONDS)
            cluster.exchange.clear.remote()

    def close(self) -> None:
        """Stop the Ray that this executor started, its workers included; leave any other as it was."""
        self._closed.set()
        keeper = self._keeper  # which two threads may wait for
        if keeper is not None:
            keeper.join()
        self._cluster = self._keeper = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _hold(self, cluster: Future[Cluster], closed: threading.Event) -> None:
        # Linux ends Ray's processes with the thread that started them, so this one stays until the end.
        try:
            with _ray(self._address, self._workers or 1, self._experiments.values()) as joined:
                cluster.set_result(joined)
                closed.wait()
        except BaseException as error:
            if not cluster.done():
                cluster.set_exception(error)

    def _connected(self) -> Cluster:
        self.start()
        assert self._cluster is not None
        return self._cluster.result()

    def _failed(self, batch: Batch, reason: str) -> pa.Table:
        return worker.failed(self._experiments[batch.experiment], batch, self._context, reason)


def _pack(experiments: Mapping[str, Experiment], context: Context, batch: Batch, held: Sequence[bytes]) -> bytes:
    """Functions and classes of importable modules travel by name, all others by value."""
    from ray import cloudpickle

    payload: bytes = cloudpickle.dumps((experiments[batch.experiment], batch, context, held))
    return payload


def _collect(cluster: Cluster) -> list[Delivery | Progress]:
    import ray

    try:
        deliveries: list[Delivery | Progress] = ray.get(cluster.exchange.collect.remote(POLL_SECONDS))
    except ray.exceptions.RayError as error:
        raise ExecutorError(setup.ray_lost(error)) from error
    return deliveries


def _trial(config: dict[str, Any], exchange: Any) -> None:
    """What Tune runs: one batch, from the exchange and back to it, on the device that Ray assigned."""
    import ray
    from ray import cloudpickle, tune

    collector.relax()
    trial = tune.get_context().get_trial_id()
    payload = ray.get(exchange.fetch.remote(trial))
    started = time.perf_counter()
    table, problem = None, None

    def send(checkpoint: bytes) -> None:
        ray.get(exchange.tell.remote(Progress(trial, checkpoint)))

    try:
        if payload is not None:
            experiment, batch, context, held = cloudpickle.loads(payload)
            device = worker.usable_device(given_gpu=bool(ray.get_gpu_ids()))
            table = to_stream(worker.run(experiment, batch, context, device, held=held, send=send))
    except Exception as error:
        problem = worker.describe(error)
    seconds = time.perf_counter() - started
    ray.get(exchange.deliver.remote(Delivery(trial, table, seconds, problem)))
    tune.report({"cells": config["cells"], "seconds": seconds, "done": True})


def _fit(work: Work, cluster: Cluster, pack: Callable[[Batch, Sequence[bytes]], bytes], workers: int) -> None:
    """Let Tune run trials until nothing is waiting or running, or the work is stopped."""
    from ray import tune
    from ray.tune.search import ConcurrencyLimiter

    def resources(config: dict[str, Any]) -> Any:
        return tune.PlacementGroupFactory([setup.occupied(config["cpu"], config["gpu"], cluster.resources)])

    trainable = tune.with_resources(tune.with_parameters(_trial, exchange=cluster.exchange), resources)
    searcher, scheduler, stopper = _hooks(work, cluster, pack)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=ConcurrencyLimiter(searcher, workers),
            scheduler=scheduler,
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=secrets.token_hex(8),
            storage_path=cluster.folder,
            stop=stopper,
            verbose=0,
        ),
    )
    with haste.memory_deaths(), haste.waiting_workers() if cluster.private else nullcontext():
        tuner.fit()


def _hooks(work: Work, cluster: Cluster, pack: Callable[[Batch, Sequence[bytes]], bytes]) -> tuple[Any, Any, Any]:
    """How Tune asks for the next batch, tells of a lost one, and learns that it should stop."""
    import ray
    from ray import tune
    from ray.tune.schedulers import FIFOScheduler
    from ray.tune.search import Searcher

    class NextBatch(Searcher):  # type: ignore[misc]
        def suggest(self, trial_id: str) -> Any:
            if work.stopped:
                return Searcher.FINISHED
            if not work.waiting:
                # A running batch may yet come back in halves.
                return None if work.running else Searcher.FINISHED
            batch = work.take(trial_id)
            ray.get(cluster.exchange.offer.remote(trial_id, pack(batch, work.held(batch))))
            needs = batch.resources
            return {"batch": batch.id, "cells": len(batch.cells), "cpu": needs.cpu, "gpu": needs.gpu}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            if not error:
                work.running.discard(trial_id)

        def save(self, checkpoint_path: str) -> None:
            """Part of Tune's state file, from which nothing is restored."""

    # A scheduler and not a callback: given any callback, Tune imports every logger it knows, MLflow's too.
    class TellsOfErrors(FIFOScheduler):  # type: ignore[misc]
        def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
            work.running.discard(trial.trial_id)
            said = Path(trial.error_file).read_text()  # beside a pickled error, which is nothing to load
            if setup.worker_died(said):
                work.lost(trial.trial_id, setup.cause_of_death(said))
            else:
                work.problem = f"Ray could not start a worker.\n{said}"

    class WhenStopped(tune.Stopper):  # type: ignore[misc]
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return work.stopped

    return NextBatch(), TellsOfErrors(), WhenStopped()


@contextmanager
def _ray(address: str | None, cpus: int, experiments: Collection[Experiment]) -> Iterator[Cluster]:
    """The Ray of this process, or the one at ``address``, or else one that lives as long as the context."""
    owned = "ray" not in sys.modules or not sys.modules["ray"].is_initialized()
    setup.set_environment(private=owned and not address)
    import ray

    tune = in_background(importlib.import_module, "ray.tune")
    if owned:
        with _in_words(address), haste.imports_from(setup.import_folders(experiments)):
            _init(address, cpus, setup.packages(experiments))
    with tempfile.TemporaryDirectory(prefix="modesweep-", ignore_cleanup_errors=True) as folder:
        exchange = None
        try:
            with _in_words(address):
                exchange = _start_exchange()
                tune.result()
            yield Cluster(ray.cluster_resources(), exchange, folder, private=owned and not address)
        finally:
            if owned:
                # A reference of Ray's that another thread's collection ends just now would end the whole process.
                with collector.paused():
                    ray.shutdown()
            elif exchange:
                ray.kill(exchange)


@contextmanager
def _in_words(address: str | None) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ExecutorError(setup.no_ray(address, error)) from error


def _init(address: str | None, cpus: int, packages: Sequence[str]) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address:
        setup.check_address(address)
        one_thread = dict.fromkeys(worker.THREAD_VARIABLES, "1")
        ship = {"env_vars": one_thread | heap.ENVIRONMENT, "py_modules": list(packages)}
        ray.init(address=address, runtime_env=ship, **quiet)
    else:
        with haste.on_this_machine(), haste.without_helpers(), haste.seen_at_once():
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)


def _start_exchange() -> Any:
    """On the driver's own node, so that the two live and die together."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Exchange).remote()
