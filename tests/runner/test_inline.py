"""The inline executor: the suite, and what only a single process shows."""

from __future__ import annotations

import os

import pytest

from runner.batch import Resources
from runner.executors import Executor, open_executor
from runner.executors.inline import InlineExecutor
from tests.suites import executors as suite


class TestInline(suite.ExecutorSuite):
    @pytest.fixture
    def executor(self) -> Executor:
        return InlineExecutor(suite.EXPERIMENTS, suite.CONTEXT)


def test_runs_in_this_process_in_order_and_only_when_asked() -> None:
    with open_executor("inline", suite.EXPERIMENTS, suite.CONTEXT, workers=7) as executor:
        assert executor.workers == 1
        asked = suite.batches(suite.cells(6, {4: "raise"}), 2)
        running = executor.run(asked)
        assert next(running).batch is asked[0]
        second = next(running)
        assert second.batch is asked[1]
        assert second.table["worker"][0].as_py().endswith(f":{os.getpid()}")


def test_gpus_are_optional() -> None:
    torch = pytest.importorskip("torch")
    asked = suite.batches(suite.cells(2), 2, resources=Resources(gpu=0.5))
    (result,) = InlineExecutor(suite.EXPERIMENTS, suite.CONTEXT).run(asked)
    assert result.table["device"][0].as_py() == ("cuda" if torch.cuda.is_available() else "cpu")


def test_an_experiment_that_breaks_its_word_is_an_error_not_a_result() -> None:
    asked = suite.batches(suite.cells(1, experiment="undeclared"), 1)
    with pytest.raises(ValueError, match="surprise"):
        list(InlineExecutor(suite.EXPERIMENTS, suite.CONTEXT).run(asked))
