-- Layout 1 to 2: age, merged backlogs, sealed events, storms, receipts.
ALTER TABLE item ADD COLUMN born INTEGER NOT NULL DEFAULT 0;
ALTER TABLE item ADD COLUMN first INTEGER NOT NULL DEFAULT 0;
ALTER TABLE item ADD COLUMN length INTEGER NOT NULL DEFAULT 1000;
CREATE INDEX item_born ON item (kind, born);
ALTER TABLE delivery ADD COLUMN sealed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE dead ADD COLUMN sources TEXT NOT NULL DEFAULT '';
ALTER TABLE dead ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE dead ADD COLUMN first INTEGER NOT NULL DEFAULT 0;
ALTER TABLE dead ADD COLUMN window INTEGER NOT NULL DEFAULT 0;

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
