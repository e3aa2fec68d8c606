"""TensorRT's messages in our log, and its errors in ours: with the real TensorRT-RTX, which needs no GPU for them."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from refinenet_edge.runtime.tensorrt import library


@pytest.fixture
def rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx", exc_type=ImportError)


def test_its_messages_reach_our_log(rtx: Any, caplog: pytest.LogCaptureFixture) -> None:
    log = library.logger_of(rtx)
    assert library.logger_of(rtx) is log
    severities = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
    assert set(rtx.ILogger.Severity.__members__) == set(severities) == set(library.LEVELS)
    caplog.set_level(logging.DEBUG)
    for severity in severities:
        log.log(getattr(rtx.ILogger.Severity, severity), "out of memory")
    levels = [logging.ERROR, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG]
    assert [record.levelno for record in caplog.records] == levels
    assert {record.message for record in caplog.records} == {"tensorrt_rtx: out of memory"}


def test_what_a_build_says_is_collected_and_in_the_log_a_detail(rtx: Any, caplog: pytest.LogCaptureFixture) -> None:
    log = library.logger_of(rtx)
    caplog.set_level(logging.DEBUG)
    with library.reports(rtx) as report:
        for number in range(3):
            log.log(rtx.ILogger.Severity.ERROR, ("zero", "one", "two")[number])
        log.log(rtx.ILogger.Severity.INFO, "Total Weights Memory: 512 bytes")
    log.log(rtx.ILogger.Severity.ERROR, "of a session")
    assert (report.said(), report.memory) == ("one / two", {"Total Weights Memory": 512})
    assert [record.levelno for record in caplog.records] == [logging.INFO] * 4 + [logging.ERROR]


def test_its_errors_reach_the_sessions_recorder(rtx: Any) -> None:
    recorder = library.make_recorder(rtx)
    runtime = rtx.Runtime(library.logger_of(rtx))
    runtime.error_recorder = recorder
    assert runtime.deserialize_cuda_engine(b"no plan" * 40) is None
    assert recorder.num_errors() == recorder.get_num_errors() > 0
    said = recorder.said()
    assert said != library.SILENT
    assert recorder.said() == library.SILENT
    for number in range(40):
        recorder.report_error(rtx.ErrorCodeTRT.FAILED_EXECUTION, f"error {number}")
    assert recorder.has_overflowed()
    assert (recorder.get_error_desc(0), recorder.said()) == ("error 24", "error 38 / error 39")
