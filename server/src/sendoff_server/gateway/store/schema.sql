-- The gateway's store, version 2. Times are Unix ms by the gateway's clock, except `t` and window starts (the sender's).
-- Every table but projects and keys belongs to one project; `project` leads each key, so that no query can cross over.

CREATE TABLE projects (
    id      INTEGER PRIMARY KEY,
    name    TEXT NOT NULL UNIQUE,
    created INTEGER NOT NULL
) STRICT;

-- Only the SHA-256 of a key is kept, or (`curve`) the public half of a CURVE key. `hint` is its beginning, so that people can
-- tell keys apart.
CREATE TABLE keys (
    id      INTEGER PRIMARY KEY,
    project INTEGER NOT NULL REFERENCES projects,
    hash    BLOB NOT NULL UNIQUE,
    hint    TEXT NOT NULL,
    created INTEGER NOT NULL,
    used    INTEGER,
    revoked INTEGER,
    curve   INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Batch ids already stored: repeats are recognised by them, overlapping covers by the last four columns (snapshots only).
CREATE TABLE batches (
    project  INTEGER NOT NULL,
    id       TEXT NOT NULL,
    digest   BLOB NOT NULL,
    type     TEXT NOT NULL,
    agent    TEXT NOT NULL,
    received INTEGER NOT NULL,
    epoch    INTEGER,
    first    INTEGER,
    last     INTEGER,
    part     INTEGER,
    PRIMARY KEY (project, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX batches_by_cover ON batches (project, agent, epoch, first, last, part, id) WHERE epoch IS NOT NULL;
CREATE INDEX batches_by_age ON batches (received);

-- Event ids already stored. They outlive the events, so that a late repeat is still recognised.
CREATE TABLE event_ids (
    project  INTEGER NOT NULL,
    id       TEXT NOT NULL,
    digest   BLOB NOT NULL,
    received INTEGER NOT NULL,
    PRIMARY KEY (project, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX event_ids_by_age ON event_ids (received);

-- Business events and exceptions. `line` is the event as it came; the other columns are what is searched and counted.
CREATE TABLE events (
    n           INTEGER PRIMARY KEY,
    project     INTEGER NOT NULL,
    id          TEXT NOT NULL,
    kind        TEXT NOT NULL,
    t           INTEGER NOT NULL,
    received    INTEGER NOT NULL,
    made        INTEGER NOT NULL,
    batch       TEXT NOT NULL,
    agent       TEXT NOT NULL,
    service     TEXT NOT NULL,
    env         TEXT NOT NULL,
    release     TEXT NOT NULL,
    host        TEXT NOT NULL,
    name        TEXT NOT NULL,
    fingerprint TEXT,
    weight      INTEGER NOT NULL,
    line        BLOB NOT NULL,
    UNIQUE (project, id)
) STRICT;
CREATE INDEX events_by_time ON events (project, kind, t, name, fingerprint, weight);
CREATE INDEX events_by_group ON events (project, fingerprint, t, weight) WHERE fingerprint IS NOT NULL;
CREATE INDEX events_by_age ON events (received);

-- Exceptions of one fingerprint. Counts include repeats that an event stands for, and stay when its events have gone.
CREATE TABLE exception_groups (
    project     INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    name        TEXT NOT NULL,
    message     TEXT NOT NULL,
    place       TEXT NOT NULL,
    service     TEXT NOT NULL,
    first_seen  INTEGER NOT NULL,
    last_seen   INTEGER NOT NULL,
    count       INTEGER NOT NULL,
    users       INTEGER NOT NULL,
    newest      TEXT NOT NULL,
    PRIMARY KEY (project, fingerprint)
) STRICT, WITHOUT ROWID;
CREATE INDEX exception_groups_by_time ON exception_groups (project, last_seen);

CREATE TABLE exception_releases (
    project     INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    release     TEXT NOT NULL,
    service     TEXT NOT NULL,
    env         TEXT NOT NULL,
    first_seen  INTEGER NOT NULL,
    last_seen   INTEGER NOT NULL,
    count       INTEGER NOT NULL,
    PRIMARY KEY (project, fingerprint, release, service, env)
) STRICT, WITHOUT ROWID;

-- Who was hit: eight bytes of a hash each, so that a user counts once and nothing of him is kept here.
CREATE TABLE exception_users (
    project     INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    user        BLOB NOT NULL,
    PRIMARY KEY (project, fingerprint, user)
) STRICT, WITHOUT ROWID;

-- Metric series, and their windows as encoded snapshot lines (wire format, section 5), one an agent.
CREATE TABLE series (
    id      INTEGER PRIMARY KEY,
    project INTEGER NOT NULL,
    name    TEXT NOT NULL,
    type    TEXT NOT NULL,
    unit    TEXT NOT NULL,
    tags    TEXT NOT NULL,
    first   INTEGER NOT NULL,
    last    INTEGER NOT NULL,
    UNIQUE (project, name, type, unit, tags)
) STRICT;

CREATE TABLE windows (
    series INTEGER NOT NULL,
    start  INTEGER NOT NULL,
    length INTEGER NOT NULL,
    agent  TEXT NOT NULL,
    line   BLOB NOT NULL,
    PRIMARY KEY (series, start, length, agent)
) STRICT, WITHOUT ROWID;

-- The newest books of each agent.
CREATE TABLE ledgers (
    project  INTEGER NOT NULL,
    agent    TEXT NOT NULL,
    host     TEXT NOT NULL,
    ordinal  INTEGER NOT NULL,
    made     INTEGER NOT NULL,
    received INTEGER NOT NULL,
    lines    BLOB NOT NULL,
    PRIMARY KEY (project, agent)
) STRICT, WITHOUT ROWID;

-- What the gateway counted, committed with the data that is counted.
CREATE TABLE counts (
    project INTEGER NOT NULL,
    name    TEXT NOT NULL,
    n       INTEGER NOT NULL,
    PRIMARY KEY (project, name)
) STRICT, WITHOUT ROWID;

-- Clients that send without an agent: what each was acknowledged (`upto`; `n`: the number of its next point) and what is
-- known of it. `state` is JSON, NULL when its numbers stand in the totals of its service: the rest is kept so that what
-- comes again is recognised, and `folded`, JSON as well, so that what it says it dropped does not count again.
CREATE TABLE clients (
    project INTEGER NOT NULL,
    client  TEXT NOT NULL,
    seen    INTEGER NOT NULL,
    upto    INTEGER NOT NULL,
    n       INTEGER,
    state   BLOB,
    folded  BLOB,
    PRIMARY KEY (project, client)
) STRICT, WITHOUT ROWID;
CREATE INDEX clients_by_age ON clients (seen);
CREATE INDEX clients_listed ON clients (project, seen) WHERE state IS NOT NULL;

-- Of each project that clients send to without an agent: what takes the place of an agent's id, the run in which its core
-- was made last, and the last round of that run that is stored.
CREATE TABLE direct (
    project INTEGER PRIMARY KEY,
    agent   TEXT NOT NULL,
    epoch   INTEGER NOT NULL,
    round   INTEGER NOT NULL
) STRICT;

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
