-- From version 1 to 2: clients that send without an agent.
ALTER TABLE keys ADD COLUMN curve INTEGER NOT NULL DEFAULT 0;

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
