-- projects_listed: Projects that know clients whose numbers stand in no total yet.
SELECT DISTINCT project FROM clients WHERE state IS NOT NULL;

-- begin_run: A core is made for the project: its epoch is greater than any before.
INSERT INTO direct (project, agent, epoch, round) VALUES (?1, ?2, ?3, 0)
ON CONFLICT DO UPDATE SET epoch = max(epoch + 1, excluded.epoch), round = 0 RETURNING agent, epoch;

-- begin_round: Changes nothing when this round, or a later one, is stored, or when a later run has begun.
UPDATE direct SET round = ?3 WHERE project = ?1 AND epoch = ?2 AND round < ?3;

-- run: The run that a project is in.
SELECT epoch FROM direct WHERE project = ?1;

-- clients: The clients of a project that are listed by themselves.
SELECT state FROM clients WHERE project = ?1 AND state IS NOT NULL ORDER BY seen DESC LIMIT ?2;

-- client: One client.
SELECT seen, upto, n, state, folded FROM clients WHERE project = ?1 AND client = ?2;

-- put_client: What is known of a client now.
INSERT INTO clients (project, client, seen, upto, n, state, folded) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
ON CONFLICT DO UPDATE SET seen = max(seen, excluded.seen), upto = excluded.upto, n = excluded.n, state = excluded.state,
    folded = excluded.folded;

-- gauges: The last values of gauges of a project.
SELECT key, state FROM gauges WHERE project = ?1;

-- put_gauge: The last value of a gauge.
INSERT INTO gauges (project, key, state) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET state = excluded.state;

-- drop_gauge: A gauge is forgotten.
DELETE FROM gauges WHERE project = ?1 AND key = ?2;

-- book: Add to one number of the books.
INSERT INTO direct_books (project, book, source, name, n) VALUES (?1, ?2, ?3, ?4, ?5)
ON CONFLICT DO UPDATE SET n = min(n + excluded.n, 9007199254740991);

-- books: All numbers of a project's books.
SELECT book, source, name, n FROM direct_books WHERE project = ?1 ORDER BY book, source, name;

-- sources: The sources that have books.
SELECT DISTINCT source FROM direct_books WHERE project = ?1 AND book IN ('events', 'points_in', 'lines', 'folded') LIMIT 1001;

-- agent: What takes the place of an agent.
SELECT agent, epoch, round FROM direct WHERE project = ?1;

-- heard: When a client was heard of last.
SELECT max(seen) FROM clients WHERE project = ?1;
