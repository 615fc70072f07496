-- What is asked by hand: looking into the spool, throwing things away, checking it. Like queries.sql.

-- name: list_waiting
-- What waits, oldest first, a row for each output.
SELECT d.item, i.id, i.kind, d.output, i.lines, i.n, length(i.blob), i.made, i.born
FROM delivery d JOIN item i ON i.item = d.item
WHERE :output IS NULL OR d.output = :output ORDER BY d.item, d.output LIMIT :most;

-- name: list_item
-- One item, a row for each output that it waits for.
SELECT d.item, i.id, i.kind, d.output, i.lines, i.n, length(i.blob), i.made, i.born
FROM delivery d JOIN item i ON i.item = d.item WHERE d.item = :item ORDER BY d.output;

-- name: find_item
-- An item by its number or its batch's id.
SELECT item FROM item WHERE item = :item OR id = :name ORDER BY item LIMIT 1;

-- name: total_waiting
-- What waits, in total, by output.
SELECT d.output, count(*), sum(iif(i.kind = 0, i.n, 0)), sum(iif(i.kind <> 0, i.n, 0)), sum(length(i.blob))
FROM delivery d JOIN item i ON i.item = d.item
WHERE :output IS NULL OR d.output = :output GROUP BY d.output;

-- name: total_folding
-- Exceptions of storms that are only counted so far, by output, and how many lines will stand for them.
SELECT o.value, count(*), sum(f.n)
FROM fold f JOIN json_each(coalesce((SELECT value FROM meta WHERE key = 'fold_outputs'), '[]')) o
WHERE f.n > 0 AND (:output IS NULL OR o.value = :output) GROUP BY o.value;

-- name: list_dead
-- Dead letters, newest first.
SELECT dead, output, batch, kind, at, status, code, excerpt, lines, n, length(blob) FROM dead
WHERE :output IS NULL OR output = :output ORDER BY dead DESC LIMIT :most;

-- name: list_one_dead
-- One dead letter, without its blob.
SELECT dead, output, batch, kind, at, status, code, excerpt, lines, n, length(blob) FROM dead WHERE dead = :dead;

-- name: total_dead
-- Dead letters in total, by output.
SELECT output, count(*), sum(iif(kind = 0, n, 0)), sum(iif(kind <> 0, n, 0)), sum(length(blob)) FROM dead
WHERE :output IS NULL OR output = :output GROUP BY output;

-- name: next_waiting
-- The next item after one that waits (for an output) and is a batch, or becomes part of one.
SELECT i.item, i.checksum, i.blob FROM item i
WHERE i.item > :after AND EXISTS (
    SELECT 1 FROM delivery d WHERE d.item = i.item AND (:output IS NULL OR d.output = :output)
) ORDER BY i.item LIMIT 1;

-- name: next_dead_letter
-- The next dead letter after one.
SELECT dead, checksum, blob FROM dead
WHERE dead > :after AND (:output IS NULL OR output = :output) ORDER BY dead LIMIT 1;

-- name: last_dead
-- The number of the newest dead letter.
SELECT coalesce(max(dead), 0) FROM dead;

-- name: last_item
-- The number of the newest item.
SELECT coalesce(max(item), 0) FROM item;

-- name: dead_between
-- Numbers of dead letters.
SELECT dead FROM dead
WHERE dead > :after AND dead <= :until AND (:output IS NULL OR output = :output) ORDER BY dead LIMIT :most;

-- name: purge_dead
-- Dead letters to be thrown away: ``before`` is Unix ms.
SELECT dead, kind, n, length(blob) FROM dead
WHERE dead > :after AND dead <= :until AND (:output IS NULL OR output = :output) AND (:before IS NULL OR at < :before)
    AND (:numbers IS NULL OR dead IN (SELECT value FROM json_each(:numbers))) ORDER BY dead LIMIT :most;

-- name: purge_waiting
-- Items to be thrown away: ``before`` is running time.
SELECT i.item, i.kind, i.n, length(i.blob) FROM item i
WHERE i.item > :after AND i.item <= :until AND (:before IS NULL OR i.born < :before)
    AND (:numbers IS NULL OR i.item IN (SELECT value FROM json_each(:numbers)))
    AND EXISTS (SELECT 1 FROM delivery d WHERE d.item = i.item AND (:output IS NULL OR d.output = :output))
ORDER BY i.item LIMIT :most;

-- name: purge_folds
-- Exceptions of storms to be thrown away, by source: how many lines would have stood for how many.
SELECT source, count(*), sum(n) FROM fold WHERE n > 0 AND (:before IS NULL OR began < :before) GROUP BY source;

-- name: empty_folds
-- They are thrown away, but for their lines: those that still come in their minute bring none.
UPDATE fold SET n = 0 WHERE :before IS NULL OR began < :before;

-- name: wrong_contents
-- Items whose numbers by source are not what they hold.
SELECT i.item, i.n, coalesce(sum(c.n), 0) FROM item i LEFT JOIN content c ON c.item = i.item
GROUP BY i.item HAVING i.n <> coalesce(sum(c.n), 0);

-- name: orphans
-- Items that nobody waits for.
SELECT item FROM item WHERE NOT EXISTS (SELECT 1 FROM delivery WHERE delivery.item = item.item);

-- name: strayed_receipts
-- Events that wait, as their receipts say, where nothing waits.
SELECT event, output FROM standing s WHERE s.item IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.item = s.item AND d.output = s.output);

-- name: check_items
-- Items with their blobs.
SELECT item, id, kind, lines, sources, checksum, blob FROM item WHERE item > :after ORDER BY item LIMIT :most;

-- name: check_dead
-- Dead letters with their blobs.
SELECT dead, batch, kind, lines, sources, checksum, blob FROM dead WHERE dead > :after ORDER BY dead LIMIT :most;
