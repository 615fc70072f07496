"""The store's file: what is refused at start, with which words, and that nothing is lost without a word."""

import shutil
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from sendoff_server.gateway import Gateway, keys
from sendoff_server.gateway.store import (
    DiskFailed,
    StoreError,
    Writer,
    database,
    open_for_reading,
    open_for_writing,
    open_store,
)
from sendoff_server.gateway.store.sql import LOOK, QUERIES
from sendoff_server.spool.reserve import Reserve

from .support import Running, batch, event, running, settings


def test_a_sqlite_that_can_lose_commits_is_refused() -> None:
    with pytest.raises(StoreError, match=r"3\.51\.2 can lose committed data.*3\.51\.3 or newer"):
        database.require_sqlite("3.51.2")
    database.require_sqlite("3.51.3")
    database.require_sqlite(apsw.sqlite_lib_version())


def test_commits_are_synced_and_readers_do_not_wait(tmp_path: Path) -> None:
    db = open_for_writing(tmp_path)
    assert db.pragma("journal_mode") == "wal"
    assert db.pragma("synchronous") == 2
    assert db.pragma("auto_vacuum") == 2
    db.close()


def test_every_query_fits_the_schema(tmp_path: Path) -> None:
    db = open_for_writing(tmp_path)
    for name, query in (QUERIES | LOOK).items():
        rows = db.execute(f"EXPLAIN {query}", (None,) * query_parameters(query)).fetchall()
        assert rows, name
    db.close()


def query_parameters(query: str) -> int:
    return max((int(part[:2].rstrip(",) \n-+;")) for part in query.split("?")[1:]), default=0)


def test_a_reading_connection_cannot_write(tmp_path: Path) -> None:
    open_for_writing(tmp_path).close()
    db = open_for_reading(tmp_path)
    with pytest.raises(apsw.ReadOnlyError):
        db.execute("DELETE FROM projects")
    db.close()


async def test_a_file_that_is_no_database_is_refused_by_name_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "gateway" / database.FILE
    path.parent.mkdir()
    path.write_bytes(b"not a database " * 1_000)
    with pytest.raises(StoreError, match=r"gateway.sqlite3 is damaged.*Restore it from a backup") as caught:
        await Gateway(settings(tmp_path)).start()
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"not a database " * 1_000


async def test_a_damaged_page_is_found_at_start(tmp_path: Path) -> None:
    async with running(tmp_path) as started:
        await started.post(batch("events", [event() for _ in range(300)]))
    path = tmp_path / "gateway" / database.FILE
    data = bytearray(path.read_bytes())
    page = data.index(b"order.placed") // 4096 * 4096
    data[page : page + 200] = b"\xff" * 200
    path.write_bytes(data)
    with pytest.raises(StoreError, match="is damaged"):
        await Gateway(settings(tmp_path)).start()


async def test_commits_hidden_by_a_damaged_log_are_said_once_and_the_log_is_kept(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    async with running(tmp_path / "first") as started:
        for _ in range(8):
            await started.post(batch("events", [event()]))
        # As after a power cut: the files as they are, without an orderly end.
        shutil.copytree(tmp_path / "first", copy)
    log = copy / "gateway" / f"{database.FILE}-wal"
    data = bytearray(log.read_bytes())
    data[len(data) // 3] ^= 1
    log.write_bytes(data)
    with pytest.raises(StoreError, match=r"commits behind the damage cannot be read. A copy is kept as"):
        await Gateway(settings(copy)).start()
    assert (copy / "gateway" / f"{database.FILE}-wal.damaged-1").read_bytes() == bytes(data)
    gateway = Gateway(settings(copy))
    await gateway.start()
    await gateway.stop(1)


async def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    db = open_for_writing(tmp_path / "gateway")
    db.pragma("user_version", database.VERSION + 1)
    db.close()
    with pytest.raises(StoreError, match=r"newer sendoff.*upgrade"):
        await Gateway(settings(tmp_path)).start()


def test_an_older_store_is_migrated_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_for_writing(tmp_path).close()
    monkeypatch.setattr(database, "VERSION", database.VERSION + 2)

    def make(step: int) -> Callable[[apsw.Connection], None]:
        return lambda db: db.execute(f"CREATE TABLE step{step}(x)").close()

    for step in (database.VERSION - 2, database.VERSION - 1):
        monkeypatch.setitem(database.MIGRATIONS, step, make(step))
    db = open_for_writing(tmp_path)
    assert db.pragma("user_version") == database.VERSION
    assert db.execute("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'step%'").get == 2
    db.close()


def test_a_store_of_version_1_becomes_what_a_new_one_is_and_keeps_what_it_had(tmp_path: Path) -> None:
    db = open_for_writing(tmp_path / "old")
    keys_before = "INSERT INTO keys (project, hash, hint, created) VALUES (1, x'01', 'sk_abcd', 5)"
    db.execute(f"INSERT INTO projects (name, created) VALUES ('shop', 5); {keys_before}")
    for table in ("clients", "direct", "gauges", "direct_books"):
        db.execute(f"DROP TABLE {table}")
    db.execute("ALTER TABLE keys DROP COLUMN curve")
    db.pragma("user_version", 1)
    db.close()
    db = open_for_writing(tmp_path / "old")
    assert db.pragma("user_version") == database.VERSION
    assert db.execute("SELECT hint, curve FROM keys").fetchall() == [("sk_abcd", 0)]
    new = open_for_writing(tmp_path / "new")
    assert _tables(db) == _tables(new)
    db.close()
    new.close()


def _tables(db: apsw.Connection) -> dict[str, list[tuple[object, ...]]]:
    """Each table and index with its columns."""
    names = [str(name) for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'")]
    found: dict[str, list[tuple[object, ...]]] = {
        name: [row[1:] for row in db.execute(f"SELECT * FROM pragma_table_info('{name}')")] for name in names
    }
    partial = "SELECT name, partial FROM pragma_index_list('clients') ORDER BY name"
    return found | {"indexes of clients": list(db.execute(partial))}


def test_a_second_gateway_on_the_same_folder_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(StoreError, match=r"in use by another gateway \(pid \d+\)"):
        open_store(tmp_path)
    store.close()
    open_store(tmp_path).close()


async def test_a_full_disk_is_answered_by_503_and_nothing_is_stored(gateway: Running) -> None:
    store = gateway.gateway._store
    assert store is not None

    def fill(db: apsw.Connection) -> None:
        db.pragma("max_page_count", int(str(db.pragma("page_count"))))

    store.writer.submit(fill).result()
    many = [event(fields={"text": "x" * 900}) for _ in range(500)]
    status, problem = await gateway.post(batch("events", many, "b"))
    assert status == 503
    assert problem["detail"] == "the disk is full"
    assert (await gateway.ask("/healthz"))[0] == 200
    assert (await gateway.ask("/readyz"))[0] == 503
    assert (await gateway.get("counts"))["events"] == 0
    store.writer.submit(lambda db: db.pragma("max_page_count", 1_000_000)).result()
    status, answer = await gateway.post(batch("events", many, "b"))
    assert (status, answer["results"][0]["status"]) == (200, "stored")
    assert (await gateway.ask("/readyz"))[0] == 200


def test_keys_are_made_listed_and_revoked_and_only_their_hash_is_kept(tmp_path: Path) -> None:
    key = keys.create(tmp_path, "shop", now_ms=5)
    assert key.startswith("sk_")
    assert len(key) == 46
    (listed,) = keys.list_keys(tmp_path)
    assert (listed.project, listed.created, listed.used, listed.revoked) == ("shop", 5, None, None)
    assert key.startswith(listed.hint)
    assert keys.revoke(tmp_path, listed.id, now_ms=9)
    assert not keys.revoke(tmp_path, listed.id, now_ms=10)
    assert not keys.revoke(tmp_path, 99)
    assert keys.list_keys(tmp_path)[0].revoked == 9
    assert key[7:].encode() not in (tmp_path / database.FILE).read_bytes()


@pytest.mark.parametrize("name", ["", "A", "a/b", "..", "-a", "api", "static", "a" * 65])
def test_a_project_name_that_cannot_be_an_address_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="project"):
        keys.create(tmp_path, name)


def test_on_a_full_disk_what_frees_gets_the_reserve_and_nothing_is_stored_until_it_is_back(tmp_path: Path) -> None:
    class Room(Reserve):
        """A reserve of a hundred pages, on a disk whose end is SQLite's own limit."""

        held = True

        def hold(self) -> bool:
            return self.held

        def give_back(self) -> bool:
            was, self.held = self.held, False
            db.pragma("max_page_count", int(str(db.pragma("page_count"))) + 100)
            return was

    db = open_for_writing(tmp_path)
    room = Room(tmp_path / "reserve")
    writer = Writer(db, room)
    writer.start()

    def grow(db: apsw.Connection) -> None:
        db.execute("INSERT INTO counts VALUES (1, hex(randomblob(20000)), 1)")

    db.pragma("max_page_count", int(str(db.pragma("page_count"))))
    with pytest.raises(DiskFailed, match="full"):
        writer.submit(grow).result()
    assert room.held
    writer.submit(grow, frees=True).result()
    assert not room.held
    with pytest.raises(DiskFailed, match="full"):
        writer.submit(lambda db: None).result()
    room.held = True
    writer.submit(grow).result()
    writer.stop()
