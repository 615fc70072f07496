-- Bytes that each class of data takes: running totals of the connection that writes, kept by triggers, so that no way of
-- storing or deleting can forget them, and a rollback takes them back too. In memory: made anew at each opening.
-- A row's cost: its blob, its sources, and what SQLite adds (measured: 150 to 500 bytes, 1 to 2 KiB more beyond a page).
CREATE TEMP TABLE used (
    class TEXT PRIMARY KEY,   -- events, metrics; dead_events, dead_metrics: the dead letters among them
    bytes INTEGER NOT NULL
) WITHOUT ROWID;

-- length() of a blob is read from the row's head: its pages are not touched.
INSERT INTO temp.used
SELECT 'events', coalesce(sum(length(blob) + length(sources) + 512 + 1024 * (length(blob) > 4000)), 0)
FROM main.item WHERE kind = 0
UNION ALL
SELECT 'metrics', coalesce(sum(length(blob) + length(sources) + 512 + 1024 * (length(blob) > 4000)), 0)
FROM main.item WHERE kind <> 0
UNION ALL
SELECT 'dead_events', coalesce(sum(length(blob) + length(sources) + 512 + 1024 * (length(blob) > 4000)), 0)
FROM main.dead WHERE kind = 0
UNION ALL
SELECT 'dead_metrics', coalesce(sum(length(blob) + length(sources) + 512 + 1024 * (length(blob) > 4000)), 0)
FROM main.dead WHERE kind <> 0;

CREATE TEMP TRIGGER item_in AFTER INSERT ON main.item BEGIN
    UPDATE temp.used
    SET bytes = bytes + length(new.blob) + length(new.sources) + 512 + 1024 * (length(new.blob) > 4000)
    WHERE class = iif(new.kind = 0, 'events', 'metrics');
END;
CREATE TEMP TRIGGER item_out AFTER DELETE ON main.item BEGIN
    UPDATE temp.used
    SET bytes = bytes - length(old.blob) - length(old.sources) - 512 - 1024 * (length(old.blob) > 4000)
    WHERE class = iif(old.kind = 0, 'events', 'metrics');
END;
CREATE TEMP TRIGGER dead_in AFTER INSERT ON main.dead BEGIN
    UPDATE temp.used
    SET bytes = bytes + length(new.blob) + length(new.sources) + 512 + 1024 * (length(new.blob) > 4000)
    WHERE class = iif(new.kind = 0, 'dead_events', 'dead_metrics');
END;
CREATE TEMP TRIGGER dead_out AFTER DELETE ON main.dead BEGIN
    UPDATE temp.used
    SET bytes = bytes - length(old.blob) - length(old.sources) - 512 - 1024 * (length(old.blob) > 4000)
    WHERE class = iif(old.kind = 0, 'dead_events', 'dead_metrics');
END;
