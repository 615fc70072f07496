"""The process's log: one thread writes it, so that no event loop ever waits for a pipe or a terminal.

Text for a terminal, JSON for anything else; ``SENDOFF_LOG=text`` or ``json`` decides otherwise. Nothing here raises
into the code that logs: when the reader of the log is too slow, lines are lost, and their number is written later.
"""

import contextlib
import datetime
import logging
import queue
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import TextIO

from sendoff_server.process.repeats import Repeats, text_of

MOST_WAITING = 10_000
PACKAGE = "sendoff_server."


class Logs(logging.Handler):
    """Takes records in and writes them to ``stream`` on a thread of its own."""

    def __init__(self, stream: TextIO, formatter: logging.Formatter, *, most_waiting: int = MOST_WAITING) -> None:
        super().__init__()
        self.lost = 0
        self._stream = stream
        self._repeats = Repeats()
        self.addFilter(self._repeats)
        self.setFormatter(formatter)
        self._waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(most_waiting)
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        # Signals are not this thread's: while the process is replaced, they have to wait.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        self._thread.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def emit(self, record: logging.LogRecord) -> None:
        # The text is made here, since arguments may change before the thread comes to it.
        record.msg, record.args = text_of(record), None
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self.lost += 1

    def tick(self, *, everything: bool = False) -> None:
        """Write what was held back as a repeat, and how much was lost. To be called now and then."""
        for record in self._repeats.overdue(everything=everything):
            self.emit(record)
        if self.lost:
            text = f"{self.lost} log lines were lost because they could not be written fast enough"
            self.lost = 0
            self.emit(logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None))

    def finish(self, seconds: float) -> None:
        """Write what waits, for at most so long."""
        self.tick(everything=True)
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=seconds)
            self._thread.join(seconds)

    def _write_all(self) -> None:
        while (record := self._waiting.get()) is not None:
            try:
                self._stream.write(self.format(record) + "\n")
                if self._waiting.empty():
                    self._stream.flush()
            except Exception:  # noqa: BLE001 - a closed pipe, a value that no JSON has: the next line still counts
                self.lost += 1


class TextFormatter(logging.Formatter):
    """``12:00:01 WARNING delivery.worker: the message``"""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record.name = record.name.removeprefix(PACKAGE)
        return super().format(record)


def json_formatter() -> logging.Formatter:
    """One JSON object a line: time (UTC, ISO 8601), level, logger, message, and a traceback as ``exc_info``."""
    from pythonjsonlogger.json import JsonFormatter

    class Formatter(JsonFormatter):
        def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
            moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
            return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    renamed = {"asctime": "time", "levelname": "level", "name": "logger"}
    return Formatter("%(asctime)s %(levelname)s %(name)s %(message)s", rename_fields=renamed)


@contextlib.contextmanager
def logging_to(stream: TextIO, environ: Mapping[str, str]) -> Iterator[Logs]:
    """Everything that is logged goes to ``stream`` while this is entered; what was set up before comes back."""
    wanted = environ.get("SENDOFF_LOG", "").strip().lower()
    as_text = wanted == "text" or (wanted != "json" and stream.isatty())
    logs = Logs(stream, TextFormatter() if as_text else json_formatter())
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = [logs]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    if wanted not in ("", "text", "json"):
        logging.getLogger(__name__).warning("SENDOFF_LOG=%s is unknown; write text or json", wanted)
    try:
        yield logs
    finally:
        logging.captureWarnings(False)
        root.handlers[:], root.level = handlers, level
        logs.finish(5)
