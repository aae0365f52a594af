"""What endpoints replied and what that cost, in one SQLite file that threads and processes share.

A reply lies here before it is used, so that no run pays twice; dollars are reserved here before a request leaves, so
that a cap holds for everything ever spent through the file. It knows nothing of HTTP, and is no cache of prompts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade.errors import CascadeError

_APPLICATION_ID = 0x43415343  # "CASC": other programs' SQLite files are told by it
_VERSION = 1
_BUSY_SECONDS = 60.0
_TABLES = """
CREATE TABLE responses (
    key TEXT PRIMARY KEY, request TEXT NOT NULL, response TEXT NOT NULL, seconds REAL NOT NULL, dollars REAL
) WITHOUT ROWID;
CREATE TABLE reservations (id INTEGER PRIMARY KEY AUTOINCREMENT, dollars REAL NOT NULL);
CREATE TABLE spending (kind TEXT PRIMARY KEY, dollars REAL NOT NULL, requests INTEGER NOT NULL);
INSERT INTO spending VALUES ('billed', 0, 0), ('perhaps billed', 0, 0);
"""

# One lock a (file, request) that some thread of this process is at, and how many threads are at it.
_CLAIMS: dict[tuple[Path, str], tuple[threading.Lock, int]] = {}
_CLAIMS_LOCK = threading.Lock()


@dataclass(frozen=True)
class StoredResponse:
    """A reply as it came.

    Attributes:
        body: JSON.
        seconds: That the attempt which brought it took.
        dollars: That it did cost, or ``None`` where there was no price.
    """

    body: str
    seconds: float
    dollars: float | None


@dataclass(frozen=True)
class Spending:
    """US dollars of everything that ever went through a file.

    Attributes:
        billed: Of the replies, by their usage.
        perhaps_billed: Upper bounds of attempts whose usage was never seen.
        reserved: Upper bounds of requests that are under way, or were when their process was killed.
    """

    billed: float
    perhaps_billed: float
    reserved: float

    @property
    def total(self) -> float:
        """What a cap is held against."""
        return self.billed + self.perhaps_billed + self.reserved


def canonical_json(value: Mapping[str, Any]) -> str:
    """The same text for the same content, whatever the order of its names."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def request_key(url: str, request: Mapping[str, Any]) -> str:
    """Names a request: SHA-256 of where it goes and what it says, and of nothing else."""
    return hashlib.sha256(f"{url}\n{canonical_json(request)}".encode()).hexdigest()


class RequestCache:
    """One SQLite file, made when it is first opened.

    Any number of threads may share an instance, and any number of processes the file, which has to lie on a local
    disk (SQLite's write-ahead log does not work over a network). Threads of one process that want the same request
    send it once (`claim`); two processes may both send it, both are then counted, and the first reply is kept.

    Args:
        path: The file; its folder is made.

    Raises:
        CascadeError: Here and from every method, if the file is corrupt, another program's, cannot be written, or is
            locked by another process for a minute. A reply that comes in while it is locked is not kept; what was
            reserved for it goes on counting.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        self._lock = threading.Lock()
        self._found_locked = False
        with self._file_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Autocommit: transactions are begun by hand, below.
            self._connection = sqlite3.connect(
                self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self) -> None:
        """Checks whose file it is before anything in it is changed, then makes the tables where there are none."""
        with self._transaction():
            (application,) = self._connection.execute("PRAGMA application_id").fetchone()
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if (application, version, tables) == (0, 0, 0):
                for statement in filter(str.strip, _TABLES.split(";")):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                self._connection.execute(f"PRAGMA user_version = {_VERSION}")
            elif (application, version) != (_APPLICATION_ID, _VERSION):
                raise CascadeError(
                    f"Expected {self.path} to be a request cache of version {_VERSION}, but it is another program's or "
                    f"version's file (application {application:#x}, version {version}); give another `cache`"
                )
        self._use_write_ahead_log()
        self._connection.execute("PRAGMA synchronous = FULL")  # what was paid for survives a power cut too

    def _use_write_ahead_log(self) -> None:
        """Switches the file over; SQLite's busy timeout does not cover that, so we wait for the others ourselves."""
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _wait_for_others(self, seconds: float) -> None:
        self._connection.execute(f"PRAGMA busy_timeout = {round(1000 * seconds)}")

    @contextlib.contextmanager
    def _file_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                # One thread has waited for all: those that come after it see at once whether the file is free again.
                self._found_locked = True
                raise CascadeError(
                    f"Expected `cache` {self.path} to be free within {_BUSY_SECONDS:g} seconds, but another process "
                    f"holds it locked; what is stored and spent is kept, run again when that process is done"
                ) from error
            raise CascadeError(
                f"Expected `cache` to be an SQLite file that can be read and written, but {self.path} is not: {error}"
            ) from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing, with the write lock held from the start, so that what is read in it stays true."""
        with self._lock, self._file_errors():
            self._wait_for_others(0 if self._found_locked else _BUSY_SECONDS)
            self._connection.execute("BEGIN IMMEDIATE")
            self._found_locked = False
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Holds a request for one thread of this process; the others wait, and then find the reply."""
        name = (self.path, key)
        with _CLAIMS_LOCK:
            lock, holders = _CLAIMS.get(name, (threading.Lock(), 0))
            _CLAIMS[name] = (lock, holders + 1)
        try:
            with lock:
                yield
        finally:
            with _CLAIMS_LOCK:
                lock, holders = _CLAIMS.pop(name)
                if holders > 1:
                    _CLAIMS[name] = (lock, holders - 1)

    def get(self, key: str) -> StoredResponse | None:
        """The reply to a request, or ``None`` if there is none yet."""
        with self._lock, self._file_errors():
            row = self._connection.execute(
                "SELECT response, seconds, dollars FROM responses WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else StoredResponse(*row)

    def __len__(self) -> int:
        """How many replies are held."""
        with self._lock, self._file_errors():
            (count,) = self._connection.execute("SELECT count(*) FROM responses").fetchone()
        return int(count)

    def spending(self) -> Spending:
        """What was spent through the file so far."""
        with self._transaction() as connection:
            return _spending(connection)

    def reserve(self, dollars: float, cap: float | None) -> int | None:
        """Sets ``dollars`` aside for a request that is about to leave.

        Returns:
            The reservation, which counts until it is released, charged or stored, even if this process is killed;
            ``None`` if everything spent and reserved in the file would pass ``cap`` with it.
        """
        with self._transaction() as connection:
            if cap is not None and _spending(connection).total + dollars > cap:
                return None
            return connection.execute("INSERT INTO reservations (dollars) VALUES (?)", (dollars,)).lastrowid

    def release(self, reservation: int) -> None:
        """Gives back what was reserved: nothing was billed."""
        with self._transaction() as connection:
            _take(connection, reservation)

    def charge(self, reservation: int) -> None:
        """Counts a reservation as spent for good: it may have been billed, and nobody said how much."""
        with self._transaction() as connection:
            _spend(connection, "perhaps billed", _take(connection, reservation))

    def settle(self, reservation: int, dollars: float) -> None:
        """Puts what a request did cost in the place of its reservation; its reply is not kept."""
        with self._transaction() as connection:
            _take(connection, reservation)
            _spend(connection, "billed", dollars)

    def store(self, key: str, request: Mapping[str, Any], response: StoredResponse, reservation: int | None) -> None:
        """Keeps a reply, and puts what it did cost in the place of its reservation, both or neither."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO responses VALUES (?, ?, ?, ?, ?)",
                (key, canonical_json(request), response.body, response.seconds, response.dollars),
            )
            if reservation is not None:
                _take(connection, reservation)
                _spend(connection, "billed", response.dollars or 0.0)

    def close(self) -> None:
        """Closes the file."""
        with self._lock, self._file_errors():
            self._connection.close()


def _spending(connection: sqlite3.Connection) -> Spending:
    spent = dict(connection.execute("SELECT kind, dollars FROM spending"))
    (reserved,) = connection.execute("SELECT total(dollars) FROM reservations").fetchone()
    return Spending(spent["billed"], spent["perhaps billed"], reserved)


def _take(connection: sqlite3.Connection, reservation: int) -> float:
    """Removes a reservation and gives its dollars."""
    (dollars,) = connection.execute("SELECT dollars FROM reservations WHERE id = ?", (reservation,)).fetchone()
    connection.execute("DELETE FROM reservations WHERE id = ?", (reservation,))
    return float(dollars)


def _spend(connection: sqlite3.Connection, kind: str, dollars: float) -> None:
    connection.execute(
        "UPDATE spending SET dollars = dollars + ?, requests = requests + 1 WHERE kind = ?", (dollars, kind)
    )
