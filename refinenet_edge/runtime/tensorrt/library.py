"""What TensorRT says: the one logger of a process, the report of a build, and a session's errors.

Each library takes one logger in a process, the first, and ignores every other. So builds and sessions share it: all
messages go to `logging`, and those of a build are also collected, by `reports`.
"""

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LEVELS = {
    "INTERNAL_ERROR": logging.ERROR,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "INFO": logging.INFO,
    "VERBOSE": logging.DEBUG,
}
ERRORS = 16  # kept for a session's messages
SILENT = "it gave no reason"

logger = logging.getLogger(__name__)


class BuildLog:
    """What TensorRT says during one build: errors, layers, and sizes such as "Total Weights Memory" in bytes."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.memory: dict[str, int] = {}
        self.layers = 0

    def note(self, level: int, message: str) -> None:
        """Take in one message."""
        if level >= logging.ERROR:
            self.errors.append(message)
        elif match := re.match(r"(Total \w+ Memory): (\d+) bytes", message):
            self.memory[match[1]] = int(match[2])
        self.layers += len(re.findall(r"^Name: .*?LayerType: |^Layer\(", message, re.MULTILINE))

    def said(self) -> str:
        """The last errors."""
        return " / ".join(self.errors[-2:]) or SILENT


_loggers: dict[Any, Any] = {}
_making = threading.Lock()


def logger_of(trt: Any) -> Any:
    """The process's one logger for the module `trt`: TensorRT's messages go to `logging`."""
    with _making:
        if trt not in _loggers:
            _loggers[trt] = _make_logger(trt)
        return _loggers[trt]


@contextmanager
def reports(trt: Any) -> Iterator[BuildLog]:
    """Collect what `trt` says while a build is on. Builds of one library take turns: they have one logger."""
    log = logger_of(trt)
    with log.building:
        log.report = report = BuildLog()
        try:
            yield report
        finally:
            log.report = None


def _make_logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # super() does not reach the C++ constructor
            self.building = threading.Lock()
            self.report: BuildLog | None = None

        def log(self, severity: Any, msg: str) -> None:
            level, report = LEVELS.get(severity.name, logging.DEBUG), self.report
            if report is not None:
                report.note(level, msg)
                level = min(level, logging.INFO)  # a failed build is reported by its exception: here errors are detail
            logger.log(level, "%s: %s", trt.__name__, msg)

    return Logger()


def make_recorder(trt: Any) -> Any:
    """The errors of one session, from whatever thread of TensorRT's; the logger is the whole process's."""

    class Recorder(trt.IErrorRecorder):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)
            self.errors: list[tuple[Any, str]] = []

        def report_error(self, arg0: Any, arg1: str) -> bool:
            self.errors = [*self.errors, (arg0, arg1)][-ERRORS:]
            return False

        def num_errors(self) -> int:
            return len(self.errors)

        def get_num_errors(self) -> int:  # what the library calls; the bindings' own name is the one above
            return len(self.errors)

        def get_error_code(self, arg0: int) -> Any:
            return self.errors[arg0][0]

        def get_error_desc(self, arg0: int) -> str:
            return self.errors[arg0][1]

        def has_overflowed(self) -> bool:
            return len(self.errors) == ERRORS

        def clear(self) -> None:
            self.errors = []

        def said(self) -> str:
            """The last errors, which are then forgotten."""
            errors, self.errors = self.errors, []
            return " / ".join(text for _, text in errors[-2:]) or SILENT

    return Recorder()
