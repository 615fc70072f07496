-- From version 1 to 2: clients that send without an agent.
ALTER TABLE keys ADD COLUMN curve INTEGER NOT NULL DEFAULT 0;

-- Clients that send without an agent: what each was acknowledged (`upto`, `n`) and what is known of it. `state` is JSON.
CREATE TABLE clients (
    project INTEGER NOT NULL,
    client  TEXT NOT NULL,
    seen    INTEGER NOT NULL,
    state   BLOB NOT NULL,
    PRIMARY KEY (project, client)
) STRICT, WITHOUT ROWID;
CREATE INDEX clients_by_age ON clients (seen);

-- The last values of gauges that such clients set relatively: key and state as the core gives them.
CREATE TABLE gauges (
    project INTEGER NOT NULL,
    key     BLOB NOT NULL,
    state   BLOB NOT NULL,
    PRIMARY KEY (project, key)
) STRICT, WITHOUT ROWID;

-- Their books, by source (wire format, section 6): running totals, committed with what they count.
CREATE TABLE direct_books (
    project INTEGER NOT NULL,
    book    TEXT NOT NULL,
    source  TEXT NOT NULL,
    name    TEXT NOT NULL,
    n       INTEGER NOT NULL,
    PRIMARY KEY (project, book, source, name)
) STRICT, WITHOUT ROWID;
