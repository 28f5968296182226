-- Every fixed statement of the engine. A statement begins at its "name" line; {clock} is the
-- database's clock in microseconds, {mine} the commit id that follows the base of an append.
-- Parameters are psycopg's; lists are typed arrays.
-- An operation that changes nothing (kind + 0, id || '') keeps a column from being looked up by an
-- index that finds too much: without statistics a planner thinks every prefix as good as the whole.

-- name: lock_heads
-- Lock the heads that a transaction will change. In the order of their refs, which only a SELECT
-- keeps: an UPDATE that joins sorted arrays locks in the order of its plan, and then two servers
-- deadlock.
SELECT count(*) FROM (
    SELECT 1
    FROM unnest(%(kinds)s::bigint[], %(ids)s::text[]) AS t (kind, id)
    JOIN maitred.aggregates a ON a.kind = t.kind AND a.id = t.id
    ORDER BY a.kind, a.id
    FOR UPDATE OF a) AS locked

-- name: append
-- The hot path: lock heads in the order of their refs, move those that may be moved, log what was
-- moved. By itself it writes what is right, but what it tells of the others may be out of date: its
-- snapshot is older than the locks that it waited for. Behind `lock_heads` in one transaction it
-- holds. The quotient at the end fails the whole statement if the log got another number of rows
-- than there were heads to move.
WITH found AS (
    SELECT t.*, a.version, a.commit_id AS head_commit, a.tombstone, a.position,
           r.version AS request_version, r.fingerprint AS request_fingerprint,
           {mine} AS mine
    FROM unnest(%(numbers)s::bigint[], %(kinds)s::bigint[], %(ids)s::text[], %(bases)s::bigint[],
                %(commits)s::bytea[], %(requests)s::bytea[], %(fingerprints)s::bytea[],
                %(times)s::bigint[], %(changes)s::bigint[], %(facts)s::bytea[],
                %(personals)s::bytea[], %(chains)s::bytea[], %(bodies)s::bytea[],
                %(wakes)s::bigint[])
         AS t (n, kind, id, base, commit_id, request_id, fingerprint, time_ns, change, facts,
               personal, chain, body, wake_at_ns)
    JOIN maitred.aggregates a ON a.kind = t.kind AND a.id = t.id
    LEFT JOIN maitred.events r
    ON r.request_id = t.request_id AND r.kind + 0 = t.kind AND r.id || '' = t.id
    ORDER BY a.kind, a.id
    FOR UPDATE OF a
), good AS (
    SELECT f.*, row_number() OVER (ORDER BY f.n) AS ordinal
    FROM found f
    WHERE f.version = f.base AND NOT f.tombstone AND f.request_version IS NULL
), lane AS (
    UPDATE maitred.lanes l
    SET position = (greatest(l.position, {clock} * 64, (SELECT max(position) FROM good)) / 64
                    + (SELECT count(*) FROM good)) * 64 + l.lane
    WHERE l.lane = %(lane)s AND (SELECT count(*) FROM good) > 0
    RETURNING l.lane, l.position, (SELECT count(*) FROM good) AS total
), moved AS (
    UPDATE maitred.aggregates a
    SET version = g.base + 1, commit_id = g.commit_id, time_ns = g.time_ns, chain = g.chain,
        body = g.body, position = l.position - (l.total - g.ordinal) * 64,
        wake_at_ns = g.wake_at_ns,
        armed_ns = CASE
            WHEN g.wake_at_ns IS DISTINCT FROM a.wake_at_ns
                 AND (a.armed_ns IS NULL OR g.wake_at_ns < a.armed_ns)
            THEN g.wake_at_ns ELSE a.armed_ns END
    FROM good g CROSS JOIN lane l
    WHERE a.kind = g.kind AND a.id = g.id AND a.version = g.base
    RETURNING a.kind, a.id, a.version, l.lane, a.position, g.time_ns, g.change, g.commit_id,
              g.request_id, g.fingerprint, g.facts, g.personal, g.chain
), logged AS (
    INSERT INTO maitred.events (kind, id, version, lane, position, time_ns, change, commit_id,
                                request_id, fingerprint, facts, personal, chain)
    SELECT kind, id, version, lane, position, time_ns, change, commit_id, request_id, fingerprint,
           facts, personal, chain
    FROM moved
    RETURNING 1
)
SELECT n, version, head_commit, tombstone, request_version, request_fingerprint, mine,
       1 / CASE WHEN (SELECT count(*) FROM logged) = (SELECT count(*) FROM good)
                THEN 1 ELSE 0 END
FROM found

-- name: find
-- The heads that commits are decided against, and the events of their requests.
SELECT t.n, a.version, a.commit_id, a.tombstone, r.version, r.fingerprint, {mine},
       a.wake_at_ns, a.armed_ns, a.place, a.position, a.created_ns, a.labels
FROM unnest(%(numbers)s::bigint[], %(kinds)s::bigint[], %(ids)s::text[], %(bases)s::bigint[],
            %(requests)s::bytea[]) AS t (n, kind, id, base, request_id)
JOIN maitred.aggregates a ON a.kind = t.kind AND a.id = t.id
LEFT JOIN maitred.events r
    ON r.request_id = t.request_id AND r.kind + 0 = t.kind AND r.id || '' = t.id

-- name: lock_claims
-- Who owns these keys, free ones that have a row included.
SELECT c.space, c.key, c.owner, c.expires_ns IS NOT NULL AND c.expires_ns <= {clock} * 1000
FROM unnest(%(spaces)s::text[], %(keys)s::text[]) AS t (space, key)
JOIN maitred.claims c ON c.space = t.space AND c.key = t.key
ORDER BY c.space, c.key
FOR UPDATE OF c

-- name: move_lane
-- Take positions for everything that a transaction adds, above all that it builds on; from here to
-- its end nobody else takes any in this lane.
UPDATE maitred.lanes
SET position = (greatest(position, {clock} * 64, %(floor)s::bigint) / 64 + %(total)s::bigint) * 64
               + lane
WHERE lane = %(lane)s
RETURNING 1

-- name: create_heads
-- Begin aggregates; a ref that exists, also as a tombstone, fails the transaction.
INSERT INTO maitred.aggregates (kind, id, version, commit_id, time_ns, wake_at_ns, armed_ns,
                                created_ns, status, customer_id, attention, labels, chain, body,
                                place, position)
SELECT t.kind, t.id, 1, t.commit_id, t.time_ns, t.wake_at_ns, t.wake_at_ns, t.created_ns, t.status,
       t.customer_id, t.attention, t.labels, t.chain, t.body,
       l.position - (%(total)s::bigint - t.ordinal) * 64,
       l.position - (%(total)s::bigint - t.ordinal) * 64
FROM unnest(%(ordinals)s::bigint[], %(kinds)s::bigint[], %(ids)s::text[], %(commits)s::bytea[],
            %(times)s::bigint[], %(wakes)s::bigint[], %(createds)s::bigint[],
            %(statuses)s::bigint[], %(customers)s::text[], %(attentions)s::bigint[],
            %(labels)s::text[], %(chains)s::bytea[], %(bodies)s::bytea[])
     AS t (ordinal, kind, id, commit_id, time_ns, wake_at_ns, created_ns, status, customer_id,
           attention, labels, chain, body)
CROSS JOIN maitred.lanes l
WHERE l.lane = %(lane)s
ORDER BY t.kind, t.id
RETURNING 1

-- name: restore_heads
-- Heads as another store kept them; a ref that exists fails the transaction. A tombstone has no
-- alarm.
INSERT INTO maitred.aggregates (kind, id, version, commit_id, time_ns, wake_at_ns, armed_ns,
                                tombstone, created_ns, status, customer_id, attention, labels,
                                chain, body, place, position)
SELECT t.kind, t.id, t.version, t.commit_id, t.time_ns, t.wake_at_ns,
       CASE WHEN t.tombstone = 1 THEN NULL ELSE t.wake_at_ns END,
       t.tombstone = 1, t.created_ns, t.status, t.customer_id, t.attention, t.labels,
       t.chain, t.body,
       l.position - (%(total)s::bigint - t.first) * 64,
       l.position - (%(total)s::bigint - t.last) * 64
FROM unnest(%(firsts)s::bigint[], %(lasts)s::bigint[], %(kinds)s::bigint[], %(ids)s::text[],
            %(versions)s::bigint[], %(commits)s::bytea[], %(times)s::bigint[],
            %(wakes)s::bigint[], %(tombstones)s::bigint[], %(createds)s::bigint[],
            %(statuses)s::bigint[], %(customers)s::text[], %(attentions)s::bigint[],
            %(labels)s::text[], %(chains)s::bytea[], %(bodies)s::bytea[])
     AS t (first, last, kind, id, version, commit_id, time_ns, wake_at_ns, tombstone, created_ns,
           status, customer_id, attention, labels, chain, body)
CROSS JOIN maitred.lanes l
WHERE l.lane = %(lane)s
ORDER BY t.kind, t.id
RETURNING 1

-- name: move_heads
-- Move heads that are locked; the listing columns only where there are new ones.
UPDATE maitred.aggregates a
SET version = t.base + 1, commit_id = t.commit_id, time_ns = t.time_ns, chain = t.chain,
    body = t.body, position = l.position - (%(total)s::bigint - t.ordinal) * 64,
    wake_at_ns = t.wake_at_ns,
    armed_ns = CASE
        WHEN t.tombstone = 1 THEN NULL
        WHEN t.wake_at_ns IS DISTINCT FROM a.wake_at_ns
             AND (a.armed_ns IS NULL OR t.wake_at_ns < a.armed_ns)
        THEN t.wake_at_ns ELSE a.armed_ns END,
    tombstone = t.tombstone = 1,
    created_ns = CASE WHEN t.indexed = 1 THEN t.created_ns ELSE a.created_ns END,
    status = CASE WHEN t.indexed = 1 THEN t.status ELSE a.status END,
    customer_id = CASE WHEN t.indexed = 1 THEN t.customer_id ELSE a.customer_id END,
    attention = CASE WHEN t.indexed = 1 THEN t.attention ELSE a.attention END,
    labels = CASE WHEN t.indexed = 1 THEN t.labels ELSE a.labels END
FROM unnest(%(ordinals)s::bigint[], %(kinds)s::bigint[], %(ids)s::text[], %(bases)s::bigint[],
            %(commits)s::bytea[], %(times)s::bigint[], %(wakes)s::bigint[],
            %(indexed)s::bigint[], %(createds)s::bigint[], %(statuses)s::bigint[],
            %(customers)s::text[], %(attentions)s::bigint[], %(labels)s::text[],
            %(chains)s::bytea[], %(bodies)s::bytea[], %(tombstones)s::bigint[])
     AS t (ordinal, kind, id, base, commit_id, time_ns, wake_at_ns, indexed, created_ns, status,
           customer_id, attention, labels, chain, body, tombstone)
CROSS JOIN maitred.lanes l
WHERE l.lane = %(lane)s AND a.kind = t.kind AND a.id = t.id AND a.version = t.base
RETURNING 1

-- name: add_events
-- Add to the log.
INSERT INTO maitred.events (kind, id, version, lane, position, time_ns, change, commit_id,
                            request_id, fingerprint, facts, personal, chain)
SELECT t.kind, t.id, t.base + 1, l.lane, l.position - (%(total)s::bigint - t.ordinal) * 64,
       t.time_ns, t.change, t.commit_id, t.request_id, t.fingerprint, t.facts, t.personal, t.chain
FROM unnest(%(ordinals)s::bigint[], %(kinds)s::bigint[], %(ids)s::text[], %(bases)s::bigint[],
            %(times)s::bigint[], %(changes)s::bigint[], %(commits)s::bytea[],
            %(requests)s::bytea[], %(fingerprints)s::bytea[], %(facts)s::bytea[],
            %(personals)s::bytea[], %(chains)s::bytea[])
     AS t (ordinal, kind, id, base, time_ns, change, commit_id, request_id, fingerprint, facts,
           personal, chain)
CROSS JOIN maitred.lanes l
WHERE l.lane = %(lane)s
RETURNING 1

-- name: drop_labels
-- Make heads not findable by labels.
DELETE FROM maitred.labels o
USING unnest(%(kinds)s::bigint[], %(names)s::text[], %(values)s::text[], %(places)s::bigint[])
      AS t (kind, name, value, place)
WHERE o.kind = t.kind AND o.name = t.name AND o.value = t.value AND o.place = t.place

-- name: add_labels
-- Make heads findable by labels.
INSERT INTO maitred.labels (kind, name, value, place, id)
SELECT a.kind, t.name, t.value, a.place, a.id
FROM unnest(%(kinds)s::bigint[], %(ids)s::text[], %(names)s::text[], %(values)s::text[])
     AS t (kind, id, name, value)
JOIN maitred.aggregates a ON a.kind = t.kind AND a.id = t.id
RETURNING 1

-- name: drop_claims
-- Give up keys if they are still one's own.
DELETE FROM maitred.claims c
USING unnest(%(spaces)s::text[], %(keys)s::text[], %(owners)s::text[]) AS t (space, key, owner)
WHERE c.space = t.space AND c.key = t.key AND c.owner || '' = t.owner

-- name: set_claims
-- Own keys whose rows are locked.
UPDATE maitred.claims c
SET owner = t.owner, expires_ns = t.expires_ns
FROM unnest(%(spaces)s::text[], %(keys)s::text[], %(owners)s::text[], %(expiries)s::bigint[])
     AS t (space, key, owner, expires_ns)
WHERE c.space = t.space AND c.key = t.key
RETURNING 1

-- name: add_claims
-- Own keys that had no row; one that has got one since fails the transaction.
INSERT INTO maitred.claims (space, key, owner, expires_ns)
SELECT t.space, t.key, t.owner, t.expires_ns
FROM unnest(%(spaces)s::text[], %(keys)s::text[], %(owners)s::text[], %(expiries)s::bigint[])
     AS t (space, key, owner, expires_ns)
ORDER BY t.space, t.key
RETURNING 1

-- name: write_rows
-- Write projection rows whole; the position of each stays that of its first writing.
INSERT INTO maitred.projections AS p
    (tab, key, kind, id, created_ns, status, flag, body, position)
SELECT t.tab, t.key, t.kind, t.id, t.created_ns, t.status, t.flag, t.body,
       l.position - (%(total)s::bigint - t.ordinal) * 64
FROM unnest(%(ordinals)s::bigint[], %(tables)s::bigint[], %(keys)s::text[], %(kinds)s::bigint[],
            %(ids)s::text[], %(createds)s::bigint[], %(statuses)s::bigint[], %(flags)s::bigint[],
            %(bodies)s::bytea[])
     AS t (ordinal, tab, key, kind, id, created_ns, status, flag, body)
CROSS JOIN maitred.lanes l
WHERE l.lane = %(lane)s
ORDER BY t.tab, t.key
ON CONFLICT (tab, key) DO UPDATE SET
    kind = excluded.kind, id = excluded.id, created_ns = excluded.created_ns,
    status = excluded.status, flag = excluded.flag, body = excluded.body
RETURNING 1

-- name: drop_rows
-- Delete projection rows.
DELETE FROM maitred.projections p
USING unnest(%(tables)s::bigint[], %(keys)s::text[]) AS t (tab, key)
WHERE p.tab = t.tab AND p.key = t.key

-- name: load
-- Heads, and for each the event of one request, in one statement, hence of one snapshot.
SELECT t.n, a.version, a.commit_id, a.time_ns, a.chain, a.body, a.created_ns, a.status,
       a.customer_id, a.attention, a.labels, a.wake_at_ns, a.tombstone,
       e.version, e.commit_id, e.request_id, e.fingerprint, e.time_ns, e.change, e.facts,
       e.personal, e.chain
FROM unnest(%(numbers)s::bigint[], %(kinds)s::bigint[], %(ids)s::text[], %(requests)s::bytea[])
     AS t (n, kind, id, request_id)
JOIN maitred.aggregates a ON a.kind = t.kind AND a.id = t.id
LEFT JOIN maitred.events e
    ON e.request_id = t.request_id AND e.kind + 0 = t.kind AND e.id || '' = t.id
       AND (NOT a.tombstone OR e.version = a.version)

-- name: confirm
-- Change nothing, and commit that.
UPDATE maitred.lanes SET position = position WHERE lane = %(lane)s

-- name: versions
-- The versions of those that exist.
SELECT t.n, a.version
FROM unnest(%(numbers)s::bigint[], %(kinds)s::bigint[], %(ids)s::text[]) AS t (n, kind, id)
JOIN maitred.aggregates a ON a.kind = t.kind AND a.id = t.id

-- name: events_of
-- A page of one aggregate's log beside its head; one row without an event if there is none.
SELECT newest, tombstone, version, commit_id, request_id, fingerprint, time_ns, change, facts,
       personal, chain
FROM (
    SELECT p.*, sum(octet_length(facts) + coalesce(octet_length(personal), 0))
        OVER (ORDER BY version {order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS held
    FROM (
        SELECT a.version AS newest, a.tombstone,
               e.version, e.commit_id, e.request_id, e.fingerprint, e.time_ns, e.change, e.facts,
               e.personal, e.chain
        FROM maitred.aggregates a
        LEFT JOIN maitred.events e
            ON e.kind = a.kind AND e.id = a.id
               AND e.version > %(after)s::bigint AND e.version < %(before)s::bigint
               AND (NOT a.tombstone OR e.version = a.version) {changes}
        WHERE a.kind = %(kind)s::bigint AND a.id = %(id)s
        ORDER BY e.version {order}
        LIMIT %(limit)s::bigint) AS p) AS q
WHERE coalesce(held, 0) < %(page_bytes)s::bigint
ORDER BY version {order}

-- name: feed
-- The log of all aggregates behind a place in each lane, in the order of positions.
SELECT kind, id, position, version, commit_id, request_id, fingerprint, time_ns, change, facts,
       personal, chain
FROM (
    SELECT p.*, sum(octet_length(facts) + coalesce(octet_length(personal), 0))
        OVER (ORDER BY position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS held
    FROM (
        SELECT e.*
        FROM maitred.lanes l
        LEFT JOIN unnest(%(lanes)s::bigint[], %(places)s::bigint[]) AS t (lane, place)
            ON t.lane = l.lane
        CROSS JOIN LATERAL (
            SELECT * FROM maitred.events o
            WHERE o.lane = l.lane AND o.position > coalesce(t.place, 0)
            ORDER BY o.position
            LIMIT %(limit)s::bigint) AS e
        WHERE l.position > coalesce(t.place, 0)
        ORDER BY e.position
        LIMIT %(limit)s::bigint) AS p) AS q
WHERE coalesce(held, 0) < %(page_bytes)s::bigint
ORDER BY position

-- name: moved_since
-- Which aggregates have moved behind a place in each lane; as `feed`, but only their names.
SELECT e.kind, e.id, e.position
FROM maitred.lanes l
JOIN unnest(%(lanes)s::bigint[], %(places)s::bigint[]) AS t (lane, place) ON t.lane = l.lane
CROSS JOIN LATERAL (
    SELECT o.kind, o.id, o.position FROM maitred.events o
    WHERE o.lane = l.lane AND o.position > t.place
    ORDER BY o.position
    LIMIT %(limit)s::bigint) AS e
WHERE l.position > t.place

-- name: lanes
-- The newest position of each lane.
SELECT lane, position FROM maitred.lanes ORDER BY lane

-- name: next_wake
-- The earliest alarm.
SELECT min(armed_ns) FROM maitred.aggregates WHERE armed_ns IS NOT NULL

-- name: due
-- Take alarms that have gone off: those whose time has come are put off to the end of the lease,
-- the others to their time. Locked in the order of refs, as commits do; whoever comes second finds
-- the alarm put off already.
WITH ripe AS (
    SELECT kind, id FROM maitred.aggregates
    WHERE armed_ns <= %(now)s::bigint
    ORDER BY armed_ns
    LIMIT %(limit)s::bigint
), locked AS (
    SELECT a.kind, a.id
    FROM ripe JOIN maitred.aggregates a ON a.kind = ripe.kind AND a.id = ripe.id
    ORDER BY a.kind, a.id
    FOR UPDATE OF a
)
UPDATE maitred.aggregates a
SET armed_ns = CASE WHEN a.wake_at_ns <= %(now)s::bigint THEN %(until)s::bigint
                    ELSE a.wake_at_ns END
FROM locked
WHERE a.kind = locked.kind AND a.id = locked.id AND a.armed_ns <= %(now)s::bigint
RETURNING a.wake_at_ns, a.place, a.kind, a.id

-- name: lease
-- Take or renew a lease by the database's clock; no row while another owner holds it.
INSERT INTO maitred.leases AS held (name, owner, token, expires_ns)
VALUES (%(name)s, %(owner)s, 1, {clock} * 1000 + %(ttl)s::bigint)
ON CONFLICT (name) DO UPDATE SET
    owner = excluded.owner,
    token = held.token + CASE WHEN held.expires_ns > {clock} * 1000 THEN 0 ELSE 1 END,
    expires_ns = excluded.expires_ns
WHERE held.owner = excluded.owner OR held.expires_ns <= {clock} * 1000
RETURNING token, expires_ns

-- name: end_lease
-- Let a lease of one's own end now; the row stays, so that its token goes on growing.
UPDATE maitred.leases SET expires_ns = 0 WHERE name = %(name)s AND owner = %(owner)s

-- name: read_claim
-- Who owns a key now.
SELECT owner, expires_ns FROM maitred.claims
WHERE space = %(space)s AND key = %(key)s
      AND (expires_ns IS NULL OR expires_ns > {clock} * 1000)

-- name: list_claims
-- Claims in the order of their keys, expired ones included.
SELECT space, key, owner, expires_ns FROM maitred.claims
WHERE (space, key) > (%(space)s, %(key)s)
ORDER BY space, key
LIMIT %(limit)s::bigint

-- name: redact
-- Erase the personal parts of events; counts only those that had any.
UPDATE maitred.events SET personal = NULL
WHERE kind = %(kind)s::bigint AND id = %(id)s AND version = ANY (%(versions)s::bigint[])
      AND personal IS NOT NULL
RETURNING 1

-- name: begin_forgetting
-- Remember that a tombstone still has something to delete.
INSERT INTO maitred.forgetting (kind, id, version, kept)
VALUES (%(kind)s::bigint, %(id)s, %(version)s::bigint, %(kept)s)
ON CONFLICT (kind, id) DO NOTHING

-- name: forgetting
-- Tombstones that still have something to delete.
SELECT kind, id, version, kept FROM maitred.forgetting ORDER BY kind, id

-- name: end_forgetting
-- Nothing is left to delete.
DELETE FROM maitred.forgetting WHERE kind = %(kind)s::bigint AND id = %(id)s

-- name: forget_events
-- A piece of the log below the tombstone's event.
DELETE FROM maitred.events
WHERE kind = %(kind)s::bigint AND id = %(id)s AND version IN (
    SELECT version FROM maitred.events
    WHERE kind = %(kind)s::bigint AND id = %(id)s AND version < %(version)s::bigint
    ORDER BY version LIMIT %(limit)s::bigint)

-- name: forget_rows
-- A piece of the projections other than the tables that are kept.
DELETE FROM maitred.projections
WHERE (tab, key) IN (
    SELECT tab, key FROM maitred.projections
    WHERE kind = %(kind)s::bigint AND id = %(id)s AND tab <> ALL (%(kept)s::bigint[])
    ORDER BY tab, key LIMIT %(limit)s::bigint)

-- name: forget_claims
-- A piece of the claims of an owner outside the spaces that are kept.
DELETE FROM maitred.claims
WHERE (space, key) IN (
    SELECT space, key FROM maitred.claims
    WHERE (owner = %(owner)s OR owner > %(before)s AND owner < %(behind)s) 
      AND space <> ALL (%(kept)s::text[])
    ORDER BY space, key LIMIT %(limit)s::bigint)

-- name: expire_claims
-- A piece of the claims that count as free anyway.
DELETE FROM maitred.claims
WHERE expires_ns <= {clock} * 1000 AND (space, key) IN (
    SELECT space, key FROM maitred.claims
    WHERE expires_ns <= {clock} * 1000
    ORDER BY space, key LIMIT %(limit)s::bigint)

-- name: scan_next
-- The next refs in order.
SELECT kind, id FROM maitred.aggregates
WHERE (kind, id) > (%(kind)s::bigint, %(id)s)
ORDER BY kind, id
LIMIT %(limit)s::bigint

-- name: count
-- Aggregates of a kind that are not forgotten.
SELECT count(*) FROM maitred.aggregates WHERE kind = %(kind)s::bigint AND NOT tombstone

-- name: clock
-- The database's clock, in nanoseconds to the microsecond.
SELECT {clock} * 1000

-- name: version
-- Name and version of the database.
SELECT version()

-- name: settings
-- What decides whether an acknowledged commit can be lost.
SELECT name, setting FROM pg_catalog.pg_settings
WHERE name IN ('server_encoding', 'fsync', 'synchronous_commit', 'synchronous_standby_names')

-- name: meta_exists
-- Whether a maitred has opened this database before.
SELECT count(*) FROM information_schema.tables
WHERE table_schema = 'maitred' AND table_name = 'meta'

-- name: create_schema
-- The place of everything that is ours.
CREATE SCHEMA IF NOT EXISTS maitred

-- name: create_meta
-- Values of the database itself.
CREATE TABLE IF NOT EXISTS maitred.meta (name text PRIMARY KEY, value text NOT NULL)

-- name: begin_meta
-- No migration has run yet.
INSERT INTO maitred.meta (name, value) VALUES ('schema', '0'), ('minimum server', '0')
ON CONFLICT (name) DO NOTHING

-- name: read_meta
-- All values of the database itself.
SELECT name, value FROM maitred.meta

-- name: lock_schema
-- How many migrations have run; whoever holds this row runs the next.
SELECT value FROM maitred.meta WHERE name = 'schema' FOR UPDATE

-- name: write_meta
-- Set a value of the database itself.
UPDATE maitred.meta SET value = %(value)s WHERE name = %(name)s

-- name: add_secret
-- The secret of these data, once.
INSERT INTO maitred.meta (name, value) VALUES ('secret', %(secret)s) ON CONFLICT (name) DO NOTHING

-- name: add_epoch
-- Begin the history of this database, once.
INSERT INTO maitred.meta (name, value) VALUES ('epoch', %(epoch)s) ON CONFLICT (name) DO NOTHING
