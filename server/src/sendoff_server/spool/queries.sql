-- Every statement the spool runs, each with a name and a sentence.

-- name: get_meta
-- One value kept about the spool itself.
SELECT value FROM meta WHERE key = :key;

-- name: meta
-- All that is kept about the spool itself.
SELECT key, value FROM meta;

-- name: set_meta
-- Keep one value about the spool itself.
INSERT INTO meta (key, value) VALUES (:key, :value) ON CONFLICT (key) DO UPDATE SET value = excluded.value;

-- name: bump
-- Add to one running total.
INSERT INTO count (book, source, output, name, reason, n) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (book, source, output, name, reason) DO UPDATE SET n = n + excluded.n;

-- name: counts
-- All running totals.
SELECT book, source, output, name, reason, n FROM count WHERE n <> 0;

-- name: pending
-- What rows say is pending, from one item to another: events by output and source, points by output.
SELECT d.kind = 0, d.output, c.source, sum(c.n)
FROM delivery d JOIN content c ON c.item = d.item
WHERE d.item > :after AND d.item <= :until
GROUP BY d.kind = 0, d.output, c.source;

-- name: pending_until
-- The last item of the next so many rows.
SELECT max(item) FROM (SELECT item FROM delivery WHERE item > :after ORDER BY item LIMIT :most);

-- name: pending_folds
-- What is folded is pending, too.
SELECT 1, o.value, f.source, sum(f.n)
FROM fold f JOIN json_each(coalesce((SELECT value FROM meta WHERE key = 'fold_outputs'), '[]')) o
GROUP BY o.value, f.source;

-- name: fold
-- Count exceptions of a storm; the first of them stands for all.
INSERT INTO fold (key, source, began, n, line) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET n = n + excluded.n;

-- name: folds
-- What stands for the exceptions of a storm: of some keys, or all. Those that were purged count none.
SELECT source, n, began, line FROM fold
WHERE n > 0 AND (:keys IS NULL OR key IN (SELECT value FROM json_each(:keys))) ORDER BY source, began, key;

-- name: drop_folds
-- Folds that went into a batch: of some keys, or all.
DELETE FROM fold WHERE :keys IS NULL OR key IN (SELECT value FROM json_each(:keys));

-- name: folding
-- How many folds there are, and how many exceptions they count.
SELECT count(*), coalesce(sum(n), 0) FROM fold WHERE n > 0;

-- name: add_item
-- Keep one item.
INSERT INTO item (id, kind, epoch, window, first, length, born, made, lines, n, decoded, sources, checksum, blob)
VALUES (:id, :kind, :epoch, :window, :first, :length, :born, :made, :lines, :n, :decoded, :sources, :checksum, :blob)
RETURNING item;

-- name: add_content
-- Say how many of each source an item holds.
INSERT INTO content (item, source, n) VALUES (?, ?, ?);

-- name: add_delivery
-- An output is to get an item.
INSERT INTO delivery (output, kind, place, item, sealed) VALUES (?, ?, ?, ?, ?);

-- name: take_delivery
-- An output is done with an item; its place in the line comes back, or no row if it was done before.
DELETE FROM delivery WHERE item = :item AND output = :output RETURNING place;

-- name: drop_item
-- An item goes when every output is done with it.
DELETE FROM item WHERE item = :item AND NOT EXISTS (SELECT 1 FROM delivery WHERE delivery.item = :item);

-- name: waiting_events
-- An output's event batches, oldest first, but for some items.
SELECT item FROM delivery
WHERE output = :output AND kind = 0 AND sealed >= :sealed AND item NOT IN (SELECT value FROM json_each(:without))
ORDER BY place, item LIMIT :most;

-- name: waiting_snapshots
-- An output's sealed snapshots, newest first (live numbers before the backlog), but for some items.
SELECT d.item FROM delivery d JOIN item i ON i.item = d.item
WHERE d.output = :output AND d.kind = 1 AND d.item NOT IN (SELECT value FROM json_each(:without)) ORDER BY i.epoch DESC, i.window DESC, d.item LIMIT :most;

-- name: sealed
-- One item as it is leased.
SELECT item, id, kind, lines, n, made, decoded, checksum, blob FROM item WHERE item = :item;

-- name: free_journal
-- An output's journal rows without their blobs, newest first.
SELECT i.item, i.epoch, iif(i.first, i.first, i.window), i.window, i.length, i.made, i.born, i.n, i.decoded, i.sources
FROM delivery d JOIN item i ON i.item = d.item
WHERE d.output = :output AND d.kind = 2 ORDER BY d.place DESC LIMIT :most;

-- name: blob
-- One item's blob.
SELECT checksum, blob FROM item WHERE item = :item;

-- name: item
-- One item without its blob.
SELECT kind, lines, n, sources, epoch, window, first, born FROM item WHERE item = :item;

-- name: name_of_item
-- What to call an item in a message.
SELECT id, kind FROM item WHERE item = :item;

-- name: outputs_of_item
-- Who still waits for an item.
SELECT output FROM delivery WHERE item = :item;

-- name: contents_of_item
-- How many of each source an item holds.
SELECT source, n FROM content WHERE item = :item;

-- name: delete_item
-- Give an item up for every output.
DELETE FROM item WHERE item = :item;

-- name: outputs_with_rows
-- Every output that anything waits for.
SELECT DISTINCT output FROM delivery;

-- name: contents_of_output
-- What waits for one output, in total.
SELECT d.kind, c.source, sum(c.n) FROM delivery d JOIN content c ON c.item = d.item
WHERE d.output = :output GROUP BY d.kind, c.source;

-- name: hand_over
-- What waits for one output is to wait for another too.
INSERT OR IGNORE INTO delivery (output, kind, place, item, sealed)
SELECT :heir, kind, place, item, sealed FROM delivery WHERE output = :output AND kind IN (SELECT value FROM json_each(:kinds));

-- name: drop_output
-- Nothing waits for an output any more.
DELETE FROM delivery WHERE output = :output;

-- name: drop_orphans
-- Items that nobody waits for go.
DELETE FROM item WHERE NOT EXISTS (SELECT 1 FROM delivery WHERE delivery.item = item.item);

-- name: set_client
-- Keep what is known of a client.
INSERT INTO client (client, state, seen, body) VALUES (?, ?, ?, ?)
ON CONFLICT (client) DO UPDATE SET state = excluded.state, seen = excluded.seen, body = excluded.body;

-- name: clients
-- Every client that has not been folded.
SELECT body FROM client;

-- name: ended_clients
-- Clients that ended and were last seen before a time.
SELECT body FROM client WHERE state <> 'live' AND seen < :before;

-- name: delete_client
-- Forget a client.
DELETE FROM client WHERE client = ?;

-- name: set_gauge
-- Keep a gauge's last value.
INSERT INTO gauge (key, state) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET state = excluded.state;

-- name: forget_gauge
-- A gauge that is not counted from any more.
DELETE FROM gauge WHERE key = ?;

-- name: gauges
-- Every gauge's last value.
SELECT key, state FROM gauge;

-- name: add_dead
-- Keep a dead letter.
INSERT INTO dead (output, batch, kind, at, status, code, excerpt, lines, n, sources, epoch, first, window, checksum, blob)
VALUES (:output, :batch, :kind, :at, :status, :code, :excerpt, :lines, :n, :sources, :epoch, :first, :window, :checksum,
    :blob) RETURNING dead;

-- name: next_dead
-- The number that the next dead letter will have.
SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'dead'), 0) + 1;

-- name: dead_letter
-- One dead letter, whole.
SELECT dead, output, batch, kind, at, status, code, lines, n, sources, epoch, first, window, checksum, blob
FROM dead WHERE dead = :dead;

-- name: delete_dead
-- A dead letter goes.
DELETE FROM dead WHERE dead = :dead RETURNING dead;

-- name: prune_dead
-- The oldest quarter of a class's dead letters goes.
DELETE FROM dead WHERE dead IN (
    SELECT dead FROM dead WHERE kind BETWEEN :first AND :last ORDER BY dead
    LIMIT (SELECT (count(*) + 3) / 4 FROM dead WHERE kind BETWEEN :first AND :last)
) RETURNING dead;

-- name: dead_letters
-- The newest dead letters, without their blobs.
SELECT dead, output, batch, kind, at, status, code, excerpt, lines, n FROM dead ORDER BY dead DESC LIMIT :most;

-- name: dead_blob
-- One dead letter's batch.
SELECT checksum, blob FROM dead WHERE dead = :dead;

-- name: backlog
-- By output: items waiting, their size, and when the oldest was made.
SELECT d.output, count(*), min(i.made) FROM delivery d JOIN item i ON i.item = d.item GROUP BY d.output;

-- name: used
-- Bytes that each class takes. On the connection that writes only (usage.sql).
SELECT class, bytes FROM temp.used;

-- name: oldest
-- The items of one kind that waited longest.
SELECT item, born FROM item WHERE kind = :kind ORDER BY born, item LIMIT :most;

-- name: older
-- Items of one kind that were stored before a running time.
SELECT item, born FROM item WHERE kind = :kind AND born < :before ORDER BY born, item LIMIT :most;

-- name: waiting_for
-- How many of some outputs wait for some items, counted one by one.
SELECT count(*) FROM json_each(:items) AS chosen JOIN delivery d ON d.item = chosen.value
WHERE d.output IN (SELECT value FROM json_each(:outputs));

-- name: add_receipt
-- Keep a receipt for one event, unless there is one, but for one that was refused first and is taken now; a row if kept.
INSERT INTO receipt (event, client, at, born, refused) VALUES (:event, :client, :at, :born, :refused)
ON CONFLICT (event) DO UPDATE
SET client = excluded.client, at = excluded.at, born = excluded.born, refused = ''
WHERE receipt.refused <> '' AND excluded.refused = '' RETURNING event;

-- name: add_standing
-- Where an event with a receipt stands with one output.
INSERT INTO standing (event, output, item, state, at, detail) VALUES (?, ?, ?, ?, ?, ?);

-- name: standing_in
-- The events with a receipt that wait in an item for an output.
SELECT event FROM standing WHERE item = :item AND output = :output;

-- name: set_standing
-- Something became of an event with a receipt.
UPDATE standing SET item = ?, state = ?, at = ?, detail = ? WHERE event = ? AND output = ?;

-- name: move_standing
-- An event with a receipt waits in another item.
UPDATE standing SET item = ? WHERE event = ? AND output = ?;

-- name: hand_over_standing
-- What stood for one output stands for another too: waiting, or not routed if that wants no events.
INSERT OR IGNORE INTO standing (event, output, item, state, at, detail)
SELECT event, :heir, iif(:wanted, item, NULL), iif(:wanted, 'pending', 'not_routed'), :at, '' FROM standing
WHERE output = :output AND item IS NOT NULL;

-- name: drop_standing
-- Nothing waits for an output any more, as receipts say; what was lost for it before stays so.
DELETE FROM standing WHERE output = :output AND item IS NOT NULL;

-- name: lose_standing
-- What waited for one output is lost.
UPDATE standing SET item = NULL, state = 'lost', at = :at, detail = :detail
WHERE output = :output AND item IS NOT NULL;

-- name: lose_orphan_standing
-- After a rescue: what an event waited in is gone, and so it is lost for the outputs that had not taken it.
UPDATE standing SET item = NULL, state = 'lost', detail = 'damaged', at = :at
WHERE item IS NOT NULL AND NOT EXISTS (SELECT 1 FROM item WHERE item.item = standing.item);

-- name: any_receipt
-- Whether anybody ever asked for a receipt that is still kept.
SELECT 1 FROM receipt LIMIT 1;

-- name: stand_again
-- An event waits for an output again; only those with a receipt.
INSERT INTO standing (event, output, item, state, at, detail)
SELECT event, ?2, ?3, 'pending', ?4, '' FROM receipt WHERE event = ?1
ON CONFLICT (event, output) DO UPDATE SET item = excluded.item, state = 'pending', at = excluded.at, detail = '';

-- name: count_receipts
-- How many receipts are kept.
SELECT count(*) FROM receipt;

-- name: prune_receipts
-- Receipts older than a running time go, with what stood in them.
DELETE FROM receipt WHERE event IN (SELECT event FROM receipt WHERE born < :before ORDER BY born LIMIT :most)
RETURNING event;

-- name: prune_oldest_receipts
-- The oldest receipts go, with what stood in them.
DELETE FROM receipt WHERE event IN (SELECT event FROM receipt ORDER BY born LIMIT :most) RETURNING event;

-- name: receipt
-- One receipt.
SELECT client, at, refused FROM receipt WHERE event = :event;

-- name: standing
-- Where an event with a receipt stands, by output.
SELECT output, state, at, detail, item FROM standing WHERE event = :event ORDER BY output;

-- name: journal_to_merge
-- Journal rows without their blobs whose windows could be longer, with the outputs that wait for them; oldest first.
SELECT item, epoch, iif(first, first, window), window, length, made, born, n, decoded, sources,
    (SELECT json_group_array(output) FROM delivery d WHERE d.item = i.item)
FROM item i WHERE kind = 2 AND length < :length ORDER BY born, item LIMIT :most;

-- name: loose_events
-- An output's event rows that are not sealed yet, without their blobs; oldest first.
SELECT d.item, d.place, i.lines, i.decoded, i.made, i.born, i.sources FROM delivery d JOIN item i ON i.item = d.item
WHERE d.output = :output AND d.kind = 0 AND d.sealed = 0 ORDER BY d.place, d.item LIMIT :most;

-- name: seal_events
-- An event row of an output that gathers is ready to be offered.
UPDATE delivery SET sealed = 1 WHERE output = :output AND item = :item AND kind = 0;
