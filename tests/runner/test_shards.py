from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import StoreError
from runner.store import shards
from runner.store.files import remove_leftovers, replacing
from runner.store.lock import hold, holder
from runner.store.shards import joined, read_records, read_shards, read_status, shard_paths, write_shard
from tests.runner.made import cell, records

ROOT = Path(__file__).parents[2]


def test_written_records_are_read_back(tmp_path: Path) -> None:
    table = records([cell(i) for i in range(3)])
    path = write_shard(tmp_path, table)
    assert path.parent == tmp_path / "records"
    assert path.name.startswith("b0-")
    back = read_records(tmp_path)
    assert [(f.name, f.type, f.metadata) for f in back.schema] == [(f.name, f.type, f.metadata) for f in table.schema]
    assert back.schema.metadata == table.schema.metadata
    assert str(back.to_pylist()) == str(table.to_pylist())
    assert shard_paths(tmp_path) == [path]
    assert read_status(tmp_path) == {f"{i:016x}": "ok" for i in range(3)}


def test_an_empty_folder_has_no_status(tmp_path: Path) -> None:
    assert read_status(tmp_path / "nothing") == {}
    assert len(read_records(tmp_path, cell_ids=["a"])) == 0


def test_records_that_cannot_be_listed_are_not_taken_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path, records([cell(0)]))
    monkeypatch.setattr(Path, "iterdir", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(StoreError, match="records cannot be read: Permission denied"):
        read_status(tmp_path)


EVENT = st.tuples(st.integers(0, 5), st.integers(0, 30), st.booleans())


@settings(max_examples=15, deadline=None)
@given(batches=st.lists(st.lists(EVENT, min_size=1, max_size=4), max_size=5))
def test_the_newest_record_counts(batches: list, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("newest")
    newest: dict[str, tuple[int, str]] = {}
    taken: set[tuple[int, int]] = set()
    for events in batches:
        for number, minute, failed in events:
            if (number, minute) in taken:  # which of two at the same instant counts is not defined
                continue
            taken.add((number, minute))
            write_shard(folder, records([cell(number)], minute=minute, failed=failed))
            status = "failed" if failed else "ok"
            newest[f"{number:016x}"] = max(newest.get(f"{number:016x}", (-1, "")), (minute, status))
    expected = {name: status for name, (_, status) in newest.items()}
    assert read_status(folder) == expected
    order = [f"{number:016x}" for number in (4, 0, 5, 2, 1, 3)]
    held = read_records(folder, order, columns=["cell_id", "status"])
    assert held.to_pylist() == [{"cell_id": n, "status": expected[n]} for n in order if n in expected]


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "zeros":
        path.write_bytes(bytes(len(content)))
    elif how == "text":
        path.write_text("cell_id,status\na,ok\n")
    elif how == "other schema":
        pq.write_table(pa.table({"x": [1]}), path)
    elif how == "other type":
        pq.write_table(pa.table({"cell_id": [1], "status": ["ok"], "finished_at": [None]}), path)


@pytest.mark.parametrize("how", ["truncated", "empty", "zeros", "text", "other schema", "other type"])
def test_a_damaged_shard_is_reported_and_set_aside_by_the_driver_alone(tmp_path: Path, how: str) -> None:
    good = write_shard(tmp_path, records([cell(0)]))
    bad = write_shard(tmp_path, records([cell(1)], batch="b1"))
    damage(bad, how)
    told: list[str] = []
    for times in (1, 2):
        assert read_status(tmp_path, told.append) == {f"{0:016x}": "ok"}
        assert len(told) == times
    assert str(bad) in told[0]
    assert sorted(shard_paths(tmp_path)) == sorted([good, bad])
    assert [path for path, _ in read_shards(shard_paths(tmp_path), report=told.append, set_aside=True)] == [good]
    assert shard_paths(tmp_path) == [good]
    assert bad.with_name(bad.name + ".damaged").exists()
    assert read_status(tmp_path, told.append) == {f"{0:016x}": "ok"}
    assert len(told) == 3


def test_a_flipped_byte_is_noticed(tmp_path: Path) -> None:
    table = records([cell(i, rate=float(i + 1)) for i in range(50)])
    path = write_shard(tmp_path, table)
    column = next(
        c
        for c in (pq.read_metadata(path).row_group(0).column(i) for i in range(table.num_columns))
        if c.path_in_schema == "rate"
    )
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + column.total_compressed_size - 3] ^= 0x10
    path.write_bytes(content)
    told: list[str] = []
    assert len(read_records(tmp_path, report=told.append)) == 0
    assert len(told) == 1


def test_a_refusal_of_the_operating_system_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_shard(tmp_path, records([cell(0)]))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(shards.pq, "ParquetFile", refuse)
    with pytest.raises(StoreError, match="Too many open files"):
        read_status(tmp_path)
    assert path.exists()


def test_leftovers_are_ignored_then_removed(tmp_path: Path) -> None:
    path = write_shard(tmp_path, records([cell(0)]))
    leftover = path.parent / ".b1-123.parquet-456.tmp"
    leftover.write_bytes(b"half")
    assert list(read_status(tmp_path)) == [f"{0:016x}"]
    remove_leftovers(path.parent)
    assert sorted(path.parent.iterdir()) == [path]
    (tmp_path / "figures").mkdir()
    for half in (tmp_path / ".cells.parquet-1.tmp", tmp_path / "figures" / ".lines.png-1.tmp", leftover):
        half.touch()
    remove_leftovers(tmp_path)
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path, records([cell(0)]))

    def full(table: pa.Table, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards.pq, "write_table", full)
    with pytest.raises(StoreError, match="disk is full"):
        write_shard(tmp_path, records([cell(1)]))
    assert len(list((tmp_path / "records").iterdir())) == 1
    assert read_status(tmp_path) == {f"{0:016x}": "ok"}


def test_a_real_limit_on_file_size_leaves_nothing(tmp_path: Path) -> None:
    code = """
        import resource, signal, sys
        from pathlib import Path
        from runner.errors import StoreError
        from runner.store.shards import write_shard
        from tests.runner.made import cell, records
        table = records([cell(i) for i in range(200)])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            write_shard(Path(sys.argv[1]), table)
        except StoreError as error:
            print("StoreError:", error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.startswith("StoreError:"), done.stderr
    assert "could not be written" in done.stdout
    assert list((tmp_path / "records").iterdir()) == []


def test_an_old_file_stays_when_the_new_one_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def half_written() -> None:
        with replacing(path) as temporary:
            temporary.write_text("new, but only ha")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        half_written()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_is_there_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, int]] = []
    replace = os.replace

    def noted(temporary: Path, path: Path) -> None:
        done.append(("replace", temporary.stat().st_ino))
        replace(temporary, path)

    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(("flush", os.fstat(descriptor).st_ino)))
    monkeypatch.setattr(os, "replace", noted)
    path = write_shard(tmp_path, records([cell(0)]))
    file, folder = path.stat().st_ino, path.parent.stat().st_ino
    assert done == [("flush", file), ("replace", file), ("flush", folder)]


WRITER = """
    import sys
    from pathlib import Path
    from runner.store.lock import hold, holder
    from runner.store.shards import write_shard
    from tests.runner.made import cell, records
    folder = Path(sys.argv[1])
    with hold(folder):
        print("holding", flush=True)
        for number in range(10_000):
            write_shard(folder, records([cell(number * 20 + i) for i in range(20)], batch=f"b{number}"))
            print(number, flush=True)
"""


def start_writer(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_killed_in_the_middle_of_writing(tmp_path: Path) -> None:
    """Whatever was announced as written is there, whole; nothing is damaged; the lock is free again."""
    for attempt in range(2):
        folder = tmp_path / str(attempt)
        with start_writer(folder) as writer:
            assert writer.stdout is not None
            for _ in range(3):
                writer.stdout.readline()
            with pytest.raises(StoreError, match=f"process {writer.pid} on"), hold(folder):
                pass
            time.sleep(0.003 * attempt)
            writer.send_signal(signal.SIGKILL)
            announced = 2 + len(writer.stdout.read().splitlines())
        told: list[str] = []
        status = read_status(folder, told.append)
        assert told == []
        assert len(status) in (20 * announced, 20 * (announced + 1))
        with hold(folder):
            remove_leftovers(folder / "records")
        assert {path.suffix for path in (folder / "records").iterdir()} == {".parquet"}


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    with hold(tmp_path):
        with pytest.raises(StoreError, match=f"process {os.getpid()} on .*--results"), hold(tmp_path):
            pass
        assert f"process {os.getpid()} on" in (holder(tmp_path) or "")
    assert holder(tmp_path) is None
    with hold(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"), hold(tmp_path / "file" / "sweep"):
        pass
    with pytest.raises(StoreError, match="could not be written"):
        write_shard(tmp_path / "file" / "sweep", records([cell(0)]))


def test_tables_with_other_columns_and_types_are_joined() -> None:
    a = pa.table({"x": pa.array([1], pa.int64()), "y": ["a"], "only_a": [True]})
    b = pa.table({"x": pa.array([0.5], pa.float64()), "y": pa.array([3], pa.int64())})
    both = joined([a, b])
    assert both.to_pylist() == [
        {"x": 1.0, "y": "a", "only_a": True},
        {"x": 0.5, "y": "3", "only_a": None},
    ]
    assert joined([]).num_rows == 0
