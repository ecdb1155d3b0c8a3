"""What an MLflow run costs, curves included: in bulk on the default sqlite store, and over HTTP beside the work of the
server itself.
"""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from benchmarks import measure
from benchmarks.commands import modesweep
from benchmarks.figures import Figure
from runner.tracking.ui import free_port

SWEEP = """
name: {name}
grids:
  - experiment: kl_fit
    axes: {{target: [bimodal], divergence: [forward_kl, reverse_kl]}}
    fixed: {{steps: 200, samples: 32}}
seeds: {seeds}
"""


def run(folder: Path, quick: bool) -> list[Figure]:
    """See the module's title."""
    sizes = (40, 200) if quick else (200, 2000)
    for cells in sizes:
        path = folder / f"runs{cells}.yaml"
        path.write_text(SWEEP.format(name=f"runs{cells}", seeds=cells // 2))
        modesweep("run", str(path), "--executor", "inline", "--mlflow", "off", folder=folder)
    few, many = (
        modesweep("export", f"runs{n}", "--tracking-uri", f"sqlite:///{folder}/{n}.db", folder=folder) for n in sizes
    )
    local = (many.cpu - few.cpu) / (sizes[1] - sizes[0])
    return [
        Figure("sqlite, in bulk: a run, CPU", 1e3 * local, "ms", 5),
        Figure("... a run, wall", 1e3 * (many.wall - few.wall) / (sizes[1] - sizes[0]), "ms", 5),
        *_over_http(folder, sizes[0]),
    ]


def _over_http(folder: Path, cells: int) -> list[Figure]:
    port = free_port(5711)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "served")]
    server = subprocess.Popen([*command, *store], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _until_it_answers(server, port)
        before = _cpu_of_tree(server.pid)
        usage = modesweep("export", f"runs{cells}", "--tracking-uri", f"http://127.0.0.1:{port}", folder=folder)
        served = _cpu_of_tree(server.pid) - before
    finally:
        server.terminate()
        server.wait()
    return [
        Figure("over HTTP: a run, wall", 1e3 * usage.wall / cells, "ms"),
        Figure("... CPU of the server", 1e3 * served / cells, "ms"),
        Figure("... wall over the server's CPU", usage.wall / served, "times", 1.3),
    ]


def _until_it_answers(server: subprocess.Popen[bytes], port: int) -> None:
    here = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < deadline:
        with suppress(OSError):
            here.open(f"http://127.0.0.1:{port}/health", timeout=1).close()
            return
        time.sleep(0.2)
    raise RuntimeError("the MLflow server did not start")


def _cpu_of_tree(root: int) -> float:
    """CPU seconds of a process and of what it has started."""
    pids, total = {root}, 0.0
    samples = {int(p.name): measure.read(int(p.name)) for p in Path("/proc").iterdir() if p.name.isdigit()}
    for pid in sorted(samples):
        sample = samples[pid]
        if sample is not None and (pid in pids or sample.parent in pids):
            pids.add(pid)
            total += sample.own
    return total
