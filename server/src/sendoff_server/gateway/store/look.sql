-- projects: All projects, or one, with how much is stored of each.
SELECT p.id, p.name, p.created,
       coalesce((SELECT n FROM counts WHERE project = p.id AND name = 'events.stored'), 0),
       coalesce((SELECT n FROM counts WHERE project = p.id AND name = 'exceptions.stored'), 0),
       coalesce((SELECT n FROM counts WHERE project = p.id AND name = 'points.stored'), 0),
       (SELECT max(used) FROM keys WHERE project = p.id)
FROM projects AS p WHERE ?1 IS NULL OR p.id = ?1 ORDER BY p.name;

-- project: The number of a project.
SELECT id FROM projects WHERE name = ?1;

-- counts: All counts of a project.
SELECT name, n FROM counts WHERE project = ?1 ORDER BY name;

-- groups: Exception groups with what they had in a range, by filters that may be missing.
WITH hit AS (
    SELECT fingerprint, sum(weight) AS n, sum(weight) - count(*) AS folded FROM events
    WHERE project = ?1 AND kind = 'exception' AND t >= ?2 AND t < ?3 GROUP BY fingerprint
)
SELECT g.fingerprint, g.name, g.message, g.place, g.service, g.first_seen, g.last_seen, g.count, g.users, g.newest, hit.n, hit.folded
FROM hit JOIN exception_groups AS g ON g.project = ?1 AND g.fingerprint = hit.fingerprint
WHERE (?4 IS NULL OR g.name LIKE ?4 ESCAPE '\' OR g.message LIKE ?4 ESCAPE '\' OR g.place LIKE ?4 ESCAPE '\')
AND ((?5 IS NULL AND ?6 IS NULL AND ?7 IS NULL) OR EXISTS (
    SELECT 1 FROM exception_releases AS r WHERE r.project = ?1 AND r.fingerprint = g.fingerprint
    AND (?5 IS NULL OR r.service = ?5) AND (?6 IS NULL OR r.env = ?6) AND (?7 IS NULL OR r.release = ?7)))
ORDER BY CASE ?8 WHEN 'count' THEN hit.n WHEN 'users' THEN g.users WHEN 'first' THEN g.first_seen ELSE g.last_seen END DESC,
         g.last_seen DESC, g.fingerprint
LIMIT ?9 OFFSET ?10;

-- group: One exception group.
SELECT fingerprint, name, message, place, service, first_seen, last_seen, count, users, newest, NULL, NULL
FROM exception_groups WHERE project = ?1 AND fingerprint = ?2;

-- group_in_range: How often a group happened in a range, and how many of those are folded: counted, but not stored one by one.
SELECT coalesce(sum(weight), 0), coalesce(sum(weight) - count(*), 0) FROM events WHERE project = ?1 AND fingerprint = ?2 AND t >= ?3 AND t < ?4;

-- newest_group: The group that happened last.
SELECT fingerprint, name, last_seen FROM exception_groups WHERE project = ?1 ORDER BY last_seen DESC LIMIT 1;

-- releases: The releases that a group was seen in, the latest first.
SELECT release, service, env, first_seen, last_seen, count FROM exception_releases
WHERE project = ?1 AND fingerprint = ?2 ORDER BY last_seen DESC LIMIT 50;

-- group_hosts: Where a group's stored events happened.
SELECT host, sum(weight) FROM (
    SELECT host, weight FROM events WHERE project = ?1 AND fingerprint = ?2 ORDER BY t DESC LIMIT 1000)
GROUP BY host ORDER BY 2 DESC LIMIT 10;

-- group_histogram: How often a group happened, by equal steps of time.
SELECT (t - ?3) / ?5, sum(weight) FROM events
WHERE project = ?1 AND fingerprint = ?2 AND t >= ?3 AND t < ?4 GROUP BY 1;

-- histogram: How often something happened, by equal steps of time.
SELECT (t - ?4) / ?6, sum(weight) FROM events
WHERE project = ?1 AND kind = ?2 AND (?3 IS NULL OR name = ?3) AND t >= ?4 AND t < ?5 GROUP BY 1;

-- histograms_of_groups: The same for several groups at once.
SELECT fingerprint, (t - ?2) / ?4, sum(weight) FROM events
WHERE project = ?1 AND fingerprint IN (SELECT value FROM json_each(?5)) AND t >= ?2 AND t < ?3 GROUP BY 1, 2;

-- names: Names of what happened in a range, the most frequent first.
SELECT name, sum(weight) FROM events WHERE project = ?1 AND kind = ?2 AND t >= ?3 AND t < ?4
GROUP BY name ORDER BY 2 DESC, 1 LIMIT ?5;

-- event: One event.
SELECT n, t, received, made, batch, agent, line FROM events WHERE project = ?1 AND id = ?2;

-- older: The event of a group before another.
SELECT id FROM events WHERE project = ?1 AND fingerprint = ?2 AND (t, n) < (?3, ?4) ORDER BY t DESC, n DESC LIMIT 1;

-- newer: The event of a group after another.
SELECT id FROM events WHERE project = ?1 AND fingerprint = ?2 AND (t, n) > (?3, ?4) ORDER BY t, n LIMIT 1;

-- of_group: Events of a group, the latest first, from a place in that order on.
SELECT n, t, received, made, batch, agent, line FROM events
WHERE project = ?1 AND fingerprint = ?2 AND (t, n) < (?3, ?4) ORDER BY t DESC, n DESC LIMIT ?5;

-- events: Events of a kind, the latest first, from a place in that order on, by filters that may be missing.
SELECT n, t, received, made, batch, agent, line FROM events
WHERE project = ?1 AND kind = ?2 AND t >= ?3 AND t < ?4 AND (t, n) < (?5, ?6)
AND (?7 IS NULL OR name = ?7) AND (?8 IS NULL OR service = ?8) AND (?9 IS NULL OR env = ?9)
AND (?10 IS NULL OR release = ?10) AND (?11 IS NULL OR CAST(line AS TEXT) LIKE ?11 ESCAPE '\')
ORDER BY t DESC, n DESC LIMIT ?12;

-- newest_event: When the latest event of a kind happened, whatever the range.
SELECT max(t) FROM events WHERE project = ?1 AND kind = ?2;

-- environments: The environments and services exceptions came from.
SELECT DISTINCT env FROM exception_releases WHERE project = ?1 ORDER BY 1 LIMIT 50;

-- metric_names: Metrics by name, type and unit, the number of their series and when they were last heard of.
SELECT name, type, unit, count(*), min(first), max(last) FROM series
WHERE project = ?1 AND (?2 IS NULL OR name LIKE ?2 ESCAPE '\') AND (name, type, unit) > (?3, ?4, ?5)
GROUP BY name, type, unit ORDER BY name, type, unit LIMIT ?6;

-- metric_kinds: The types and units under one name, the latest heard of first.
SELECT type, unit, count(*), max(last) FROM series WHERE project = ?1 AND name = ?2
GROUP BY type, unit ORDER BY max(last) DESC, type, unit;

-- series_of: The series of a metric that were heard of in a range.
SELECT id, tags FROM series WHERE project = ?1 AND name = ?2 AND type = ?3 AND unit = ?4 AND last > ?5 AND first < ?6
ORDER BY tags LIMIT ?7;

-- windows_of: The windows of a series that begin in a range.
SELECT start, length, agent, line FROM windows WHERE series = ?1 AND start >= ?2 AND start < ?3 ORDER BY start LIMIT ?4;

-- ledgers: The newest books of every agent.
SELECT agent, host, ordinal, made, received, lines FROM ledgers WHERE project = ?1 ORDER BY host, agent LIMIT 1000;
