-- The spool of one agent. Delivery state is a row per (item, output): what is pending is what these rows say.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value NOT NULL
) WITHOUT ROWID;

-- What is kept: an events batch (its blob shared by the outputs), a sealed snapshot (of one output), or a journal row
-- (one second of metrics, never offered: a lease merges these and seals the result).
CREATE TABLE item (
    item INTEGER PRIMARY KEY AUTOINCREMENT,  -- rises in the order of arrival and is never used again
    id TEXT NOT NULL,                        -- the batch's; halves of two outputs may share one
    kind INTEGER NOT NULL,                   -- 0 events, 1 snapshot, 2 journal
    epoch INTEGER NOT NULL,                  -- metrics: the agent's run …
    window INTEGER NOT NULL,                 -- … and the number of the (last) window; 0 for events
    made INTEGER NOT NULL,                   -- Unix ms
    lines INTEGER NOT NULL,
    n INTEGER NOT NULL,                      -- events (with those that a line stands for), or points
    born INTEGER NOT NULL DEFAULT 0,         -- ms of the agent's running time when it was stored: what age is measured by
    first INTEGER NOT NULL DEFAULT 0,        -- metrics: the number of the first window; 0: one window only
    length INTEGER NOT NULL DEFAULT 1000,    -- journal: ms of its windows
    decoded INTEGER NOT NULL,                -- bytes before compression
    sources TEXT NOT NULL,                   -- events: [[source, lines], …] in the order of the lines; else {source: points}
    checksum BLOB NOT NULL,                  -- of the blob: SQLite's own checks do not see a flipped bit in it
    blob BLOB NOT NULL                       -- last, so that the rest is read without it
);
CREATE INDEX item_born ON item (kind, born);

-- One row for each output that has not taken the item yet.
CREATE TABLE delivery (
    output TEXT NOT NULL,
    kind INTEGER NOT NULL,
    place INTEGER NOT NULL,                  -- in the line; the halves of a batch stand where it stood
    item INTEGER NOT NULL REFERENCES item ON DELETE CASCADE,
    sealed INTEGER NOT NULL DEFAULT 0,       -- events of an output that gathers: 1 once it is ready to be offered
    PRIMARY KEY (output, kind, place, item)
) WITHOUT ROWID;
CREATE INDEX delivery_item ON delivery (item);

-- How many events by source (or points, with source '') an item holds: small rows, so that asking for what is pending is cheap.
CREATE TABLE content (
    item INTEGER NOT NULL REFERENCES item ON DELETE CASCADE,
    source TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (item, source)
) WITHOUT ROWID;

-- The books' running totals, changed only in the transaction that moves what they count.
CREATE TABLE count (
    book TEXT NOT NULL,    -- events, points_in, points_out, lines, clients
    source TEXT NOT NULL,
    output TEXT NOT NULL,
    name TEXT NOT NULL,    -- received, delivered, lost …
    reason TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (book, source, output, name, reason)
) WITHOUT ROWID;

-- Clients that have not been folded into totals: what was acknowledged, what was refused, and their numbers.
CREATE TABLE client (
    client TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    seen INTEGER NOT NULL,
    body BLOB NOT NULL     -- ClientState as JSON
) WITHOUT ROWID;

-- The last value of each gauge that relative changes build on, opaque to the spool.
CREATE TABLE gauge (
    key BLOB PRIMARY KEY,
    state BLOB NOT NULL
) WITHOUT ROWID;

-- What a destination refused for good, with its words; the blob is a batch that can be sent again.
CREATE TABLE dead (
    dead INTEGER PRIMARY KEY AUTOINCREMENT,
    output TEXT NOT NULL,
    batch TEXT NOT NULL,
    kind INTEGER NOT NULL,
    at INTEGER NOT NULL,     -- Unix ms
    status INTEGER NOT NULL, -- HTTP status
    code TEXT NOT NULL,
    excerpt BLOB NOT NULL,   -- at most 2 KiB of the answer
    lines INTEGER NOT NULL,
    n INTEGER NOT NULL,
    sources TEXT NOT NULL DEFAULT '', -- as an item's
    epoch INTEGER NOT NULL DEFAULT 0,
    first INTEGER NOT NULL DEFAULT 0,
    window INTEGER NOT NULL DEFAULT 0,
    checksum BLOB NOT NULL,
    blob BLOB NOT NULL
);

-- Exceptions of a storm that are only counted, until their minute is over and one of them goes out for all.
CREATE TABLE fold (
    key TEXT PRIMARY KEY,
    source TEXT NOT NULL,
    began INTEGER NOT NULL,  -- ms of the agent's running time
    n INTEGER NOT NULL,      -- how many, the one that stands for all included: pending for every output that wants events
    line BLOB NOT NULL       -- the one that will stand for all, LF, its checksum
) WITHOUT ROWID;

-- Events whose senders asked for a receipt.
CREATE TABLE receipt (
    event TEXT PRIMARY KEY,
    client TEXT NOT NULL,
    at INTEGER NOT NULL,     -- Unix ms: when it was stored, or refused
    born INTEGER NOT NULL,   -- ms of the agent's running time
    refused TEXT NOT NULL    -- why the agent did not take it; '' if it did
) WITHOUT ROWID;
CREATE INDEX receipt_born ON receipt (born);

-- What became of it, by output.
CREATE TABLE standing (
    event TEXT NOT NULL REFERENCES receipt ON DELETE CASCADE,
    output TEXT NOT NULL,
    item INTEGER,            -- the item that it waits in; NULL once it is settled
    state TEXT NOT NULL,     -- pending, delivered, refused, lost, not_routed
    at INTEGER NOT NULL,     -- Unix ms
    detail TEXT NOT NULL,
    PRIMARY KEY (event, output)
) WITHOUT ROWID;
CREATE INDEX standing_item ON standing (item) WHERE item IS NOT NULL;
