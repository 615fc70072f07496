-- find_key: The key of a hash, revoked or not.
SELECT keys.id, keys.project, projects.name, keys.hash, keys.revoked FROM keys JOIN projects ON projects.id = keys.project
WHERE keys.hash = ?1 AND NOT keys.curve;

-- curve_keys: All CURVE keys that work, by their public halves.
SELECT keys.hash, keys.id, keys.project, projects.name FROM keys JOIN projects ON projects.id = keys.project
WHERE keys.curve AND keys.revoked IS NULL;

-- touch_key: Remember when a key was last used, at most once a minute.
UPDATE keys SET used = ?2 WHERE id = ?1 AND (used IS NULL OR used < ?2 - 60000);

-- add_project: Begin a project unless it is there.
INSERT INTO projects (name, created) VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING;

-- project_id: The number of a project.
SELECT id FROM projects WHERE name = ?1;

-- add_key: A new key, known by its hash, or (CURVE) by its public half.
INSERT INTO keys (project, hash, hint, created, curve) VALUES (?1, ?2, ?3, ?4, ?5);

-- list_keys: All keys, oldest first.
SELECT keys.id, projects.name, keys.hint, keys.created, keys.used, keys.revoked, keys.curve
FROM keys JOIN projects ON projects.id = keys.project ORDER BY keys.id;

-- revoke_key: A key loses its power; a second time changes nothing.
UPDATE keys SET revoked = ?2 WHERE id = ?1 AND revoked IS NULL;

-- count: Add to one of the project's counts.
INSERT INTO counts (project, name, n) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET n = min(n + excluded.n, 9007199254740991);

-- find_batch: What is known of a batch id.
SELECT digest FROM batches WHERE project = ?1 AND id = ?2;

-- add_batch: Remember a batch id.
INSERT INTO batches (project, id, digest, type, agent, received, epoch, first, last, part)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10);

-- covers_before: Stored covers of an agent's run that begin at or before a window, the latest first.
SELECT id, first, last, part FROM batches WHERE project = ?1 AND agent = ?2 AND epoch = ?3 AND first <= ?4
ORDER BY first DESC, last DESC;

-- add_event_id: Remember an event id; changes nothing if it is known.
INSERT INTO event_ids (project, id, digest, received) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING;

-- event_digest: The digest of a known event.
SELECT digest FROM event_ids WHERE project = ?1 AND id = ?2;

-- add_event: Store one event.
INSERT INTO events (project, id, kind, t, received, made, batch, agent, service, env, release, host, name, fingerprint, weight, line)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16);

-- add_user: Remember that a user was hit by a group.
INSERT INTO exception_users (project, fingerprint, user) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING;

-- add_to_group: Count an exception in its group; what is shown is taken from the newest.
INSERT INTO exception_groups (project, fingerprint, name, message, place, service, first_seen, last_seen, count, users, newest)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8, ?9, ?10)
ON CONFLICT DO UPDATE SET
    count = count + excluded.count,
    users = users + excluded.users,
    first_seen = min(first_seen, excluded.first_seen),
    last_seen = max(last_seen, excluded.last_seen),
    name = iif(excluded.last_seen >= last_seen, excluded.name, name),
    message = iif(excluded.last_seen >= last_seen, excluded.message, message),
    place = iif(excluded.last_seen >= last_seen, excluded.place, place),
    service = iif(excluded.last_seen >= last_seen, excluded.service, service),
    newest = iif(excluded.last_seen >= last_seen, excluded.newest, newest);

-- add_to_release: Count an exception in its release.
INSERT INTO exception_releases (project, fingerprint, release, service, env, first_seen, last_seen, count)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, ?7)
ON CONFLICT DO UPDATE SET
    count = count + excluded.count,
    first_seen = min(first_seen, excluded.first_seen),
    last_seen = max(last_seen, excluded.last_seen);

-- find_series: The number of a series.
SELECT id FROM series WHERE project = ?1 AND name = ?2 AND type = ?3 AND unit = ?4 AND tags = ?5;

-- add_series: A new series.
INSERT INTO series (project, name, type, unit, tags, first, last) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) RETURNING id;

-- touch_series: Widen the time a series is known for.
UPDATE series SET first = min(first, ?2), last = max(last, ?3) WHERE id = ?1 AND (first > ?2 OR last < ?3);

-- window: The line stored for a window.
SELECT line FROM windows WHERE series = ?1 AND start = ?2 AND length = ?3 AND agent = ?4;

-- put_window: Store the line of a window in place of the one before.
INSERT INTO windows (series, start, length, agent, line) VALUES (?1, ?2, ?3, ?4, ?5)
ON CONFLICT DO UPDATE SET line = excluded.line;

-- put_ledger: Newer books replace older ones. Ordinals rise; when an agent began them anew, its clock decides.
INSERT INTO ledgers (project, agent, host, ordinal, made, received, lines) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
ON CONFLICT DO UPDATE SET
    host = excluded.host, ordinal = excluded.ordinal, made = excluded.made, received = excluded.received, lines = excluded.lines
WHERE excluded.ordinal > ordinal OR excluded.made > made;

-- series_after: Series in the order of their numbers, for a pass over all of them.
SELECT id, name, type, unit, tags FROM series WHERE id > ?1 ORDER BY id LIMIT ?2;

-- windows_to_merge: Windows of a series shorter than a length and older than a time.
SELECT start FROM windows WHERE series = ?1 AND start < ?2 AND length < ?3 ORDER BY start LIMIT ?4;

-- windows_in_bucket: All windows of a series that lie in one longer window.
SELECT start, length, agent, line FROM windows
WHERE series = ?1 AND start >= ?2 AND start < ?2 + ?3 AND length <= ?3 ORDER BY agent, start, length;

-- drop_window: Take a window away.
DELETE FROM windows WHERE series = ?1 AND start = ?2 AND length = ?3 AND agent = ?4;

-- drop_old_windows: Windows beyond their retention, some at a time.
DELETE FROM windows WHERE (series, start, length, agent) IN (
    SELECT series, start, length, agent FROM windows WHERE series = ?1 AND start < ?2 LIMIT ?3);

-- drop_old_series: A series without windows left that is not heard of any more.
DELETE FROM series WHERE id = ?1 AND last < ?2 AND NOT EXISTS (SELECT 1 FROM windows WHERE series = ?1);

-- drop_old_events: Events beyond their retention, some at a time.
DELETE FROM events WHERE n IN (SELECT n FROM events WHERE received < ?1 LIMIT ?2);

-- drop_old_event_ids: Event ids beyond the time for which repeats are recognised.
DELETE FROM event_ids WHERE (project, id) IN (SELECT project, id FROM event_ids WHERE received < ?1 LIMIT ?2);

-- drop_old_batches: Batch ids beyond the time for which repeats are recognised.
DELETE FROM batches WHERE (project, id) IN (SELECT project, id FROM batches WHERE received < ?1 LIMIT ?2);

-- drop_old_ledgers: Books of agents that were not heard of for so long.
DELETE FROM ledgers WHERE (project, agent) IN (SELECT project, agent FROM ledgers WHERE received < ?1 LIMIT ?2);

-- drop_old_clients: Clients in totals, beyond the time for which repeats of what they sent are recognised.
DELETE FROM clients WHERE (project, client) IN (SELECT project, client FROM clients WHERE seen < ?1 AND state IS NULL LIMIT ?2);

-- newest_received: When something came in last.
SELECT max(received) FROM (SELECT max(received) AS received FROM batches UNION ALL SELECT max(received) FROM ledgers
    UNION ALL SELECT max(seen) FROM clients);

-- old_groups: Groups of which no event is left and nothing new came.
SELECT project, fingerprint FROM exception_groups AS g WHERE last_seen < ?1
AND NOT EXISTS (SELECT 1 FROM events WHERE events.project = g.project AND events.fingerprint = g.fingerprint) LIMIT ?2;

-- drop_group: Forget a group.
DELETE FROM exception_groups WHERE project = ?1 AND fingerprint = ?2;

-- drop_group_releases: Forget a group's releases.
DELETE FROM exception_releases WHERE project = ?1 AND fingerprint = ?2;

-- drop_group_users: Forget who was hit by a group.
DELETE FROM exception_users WHERE project = ?1 AND fingerprint = ?2;
