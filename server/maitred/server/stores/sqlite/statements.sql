-- Every fixed statement of the engine. A statement begins at its "name" line.

-- name: find_one
-- The head that a commit is decided against, and the event of its request.
SELECT a.aggregate, a.version, a.commit_id, a.tombstone, a.wake_at_ns, a.armed_ns, a.labels,
       e.version, e.fingerprint
FROM aggregates a
LEFT JOIN events e ON e.aggregate = a.aggregate AND e.request_id = ?3 AND ?3 IS NOT NULL
WHERE a.kind = ?1 AND a.id = ?2

-- name: find_many
-- The same for several; {values} is a list of (number, kind, id, request).
WITH asked (n, kind, id, request) AS (VALUES {values})
SELECT n, a.aggregate, a.version, a.tombstone, a.wake_at_ns, a.armed_ns, e.version
FROM asked
JOIN aggregates a ON a.kind = asked.kind AND a.id = asked.id
LEFT JOIN events e
    ON e.aggregate = a.aggregate AND e.request_id = asked.request AND asked.request IS NOT NULL

-- name: append_head
-- Move a head whose wake time needs no earlier alarm and whose index is as it was: the hot path.
UPDATE aggregates
SET version = ?, commit_id = ?, time_ns = ?, wake_at_ns = ?, chain = ?, body = ?
WHERE aggregate = ? AND version = ? AND tombstone = 0

-- name: arm
-- Let the sweeper look at an aggregate at this time.
UPDATE aggregates SET armed_ns = ?1 WHERE aggregate = ?2

-- name: index_head
-- Write the listing columns.
UPDATE aggregates
SET created_ns = ?, status = ?, customer_id = ?, attention = ?, labels = ?
WHERE aggregate = ?

-- name: create_head
-- Begin an aggregate; its ref must be new, also among tombstones.
INSERT INTO aggregates (kind, id, version, commit_id, time_ns, wake_at_ns, armed_ns, created_ns,
                        status, customer_id, attention, labels, chain, body)
VALUES (?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: append_event
-- Add to the log.
INSERT INTO events (aggregate, version, time_ns, change, request_id, fingerprint, facts, personal,
                    chain)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: same_event
-- What is needed to tell whether an older event is the one of this commit.
SELECT time_ns, change, request_id, fingerprint, facts, chain
FROM events WHERE aggregate = ? AND version = ?

-- name: add_label
-- Make a head findable by a label.
INSERT INTO labels (kind, name, value, aggregate) VALUES (?, ?, ?, ?)

-- name: drop_label
-- Make a head not findable by a label.
DELETE FROM labels WHERE kind = ? AND name = ? AND value = ? AND aggregate = ?

-- name: read_claim
-- Who owns a key.
SELECT owner, expires_ns FROM claims WHERE space = ? AND key = ?

-- name: write_claim
-- Own a key that was found free, expired or one's own.
INSERT INTO claims (space, key, owner, expires_ns) VALUES (?, ?, ?, ?)
ON CONFLICT (space, key) DO UPDATE SET owner = excluded.owner, expires_ns = excluded.expires_ns

-- name: release_claim
-- Give up a key if it is still one's own.
DELETE FROM claims WHERE space = ? AND key = ? AND owner = ?

-- name: write_row
-- Write a projection row whole; its position stays that of its first writing.
INSERT INTO projections (tab, key, kind, id, created_ns, status, flag, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (tab, key) DO UPDATE SET
    kind = excluded.kind, id = excluded.id, created_ns = excluded.created_ns,
    status = excluded.status, flag = excluded.flag, body = excluded.body

-- name: drop_row
-- Delete a projection row.
DELETE FROM projections WHERE tab = ? AND key = ?

-- name: restore_head
-- A head as another store kept it.
INSERT INTO aggregates (kind, id, version, commit_id, time_ns, wake_at_ns, armed_ns, tombstone,
                        created_ns, status, customer_id, attention, labels, chain, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: list_claims
-- Claims in order.
SELECT space, key, owner, expires_ns FROM claims WHERE (space, key) > (?, ?)
ORDER BY space, key LIMIT ?

-- name: load
-- A head.
SELECT version, commit_id, time_ns, chain, body, created_ns, status, customer_id, attention, labels,
       wake_at_ns, tombstone
FROM aggregates WHERE kind = ? AND id = ?

-- name: load_with_request
-- A head and the event of one request, in one statement, hence of one snapshot.
SELECT a.version, a.commit_id, a.time_ns, a.chain, a.body, a.created_ns, a.status, a.customer_id,
       a.attention, a.labels, a.wake_at_ns, a.tombstone,
       e.version, e.request_id, e.fingerprint, e.time_ns, e.change, e.facts, e.personal, e.chain,
       e.position
FROM aggregates a
LEFT JOIN events e ON e.aggregate = a.aggregate AND e.request_id = ?3
    AND (a.tombstone = 0 OR e.version = a.version)
WHERE a.kind = ?1 AND a.id = ?2

-- name: read_version
-- The version of one head.
SELECT version FROM aggregates WHERE kind = ? AND id = ?

-- name: events_of
-- A page of one aggregate's log beside its head; one row without an event if there is none.
SELECT a.version, a.commit_id, a.tombstone,
       e.version, e.request_id, e.fingerprint, e.time_ns, e.change, e.facts, e.personal, e.chain,
       e.position
FROM aggregates a
LEFT JOIN events e ON e.aggregate = a.aggregate AND e.version > ?3 AND e.version < ?5
    AND (a.tombstone = 0 OR e.version = a.version) {changes}
WHERE a.kind = ?1 AND a.id = ?2
ORDER BY e.version {order}
LIMIT ?4

-- name: feed
-- The log of all aggregates in the order of commits.
SELECT a.kind, a.id, a.version, a.commit_id,
       e.version, e.request_id, e.fingerprint, e.time_ns, e.change, e.facts, e.personal, e.chain,
       e.position
FROM events e CROSS JOIN aggregates a ON a.aggregate = e.aggregate
WHERE e.position > ?
ORDER BY e.position
LIMIT ?

-- name: feed_end
-- The youngest position.
SELECT coalesce(max(position), 0) FROM events

-- name: next_wake
-- The earliest alarm.
SELECT min(armed_ns) FROM aggregates WHERE armed_ns IS NOT NULL

-- name: scan_next
-- The next refs in order.
SELECT kind, id FROM aggregates WHERE (kind, id) > (?, ?) ORDER BY kind, id LIMIT ?

-- name: count
-- Aggregates of a kind that are not forgotten.
SELECT count(*) FROM aggregates WHERE kind = ? AND tombstone = 0

-- name: armed
-- Alarms that have gone off.
SELECT aggregate, kind, id, wake_at_ns FROM aggregates
WHERE armed_ns <= ?
ORDER BY armed_ns
LIMIT ?

-- name: drop_taken
-- Hand out again what was taken and not looked after: an alarm later than its time is a lease.
UPDATE aggregates SET armed_ns = wake_at_ns WHERE armed_ns > wake_at_ns

-- name: drop_leases
-- End every lease; the tokens stay, so that the next ones are greater.
UPDATE leases SET expires_ns = 0 WHERE expires_ns > 0

-- name: read_lease
-- Who holds a lease.
SELECT owner, token, expires_ns FROM leases WHERE name = ?

-- name: write_lease
-- Hold a lease.
INSERT INTO leases (name, owner, token, expires_ns) VALUES (?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET
    owner = excluded.owner, token = excluded.token, expires_ns = excluded.expires_ns

-- name: redact_event
-- Erase the personal part of one event; counts as a change only if there was one.
UPDATE events SET personal = NULL
WHERE personal IS NOT NULL AND version = ?3
  AND aggregate = (SELECT aggregate FROM aggregates WHERE kind = ?1 AND id = ?2)

-- name: bury
-- Turn a head into a tombstone.
UPDATE aggregates
SET version = ?, commit_id = ?, time_ns = ?, chain = ?, body = ?, wake_at_ns = NULL,
    armed_ns = NULL, tombstone = 1
WHERE aggregate = ? AND version = ? AND tombstone = 0

-- name: begin_forgetting
-- Remember that a tombstone still has events to delete.
INSERT INTO forgetting (aggregate, kept) VALUES (?, ?)

-- name: forgetting
-- Tombstones that still have something to delete.
SELECT f.aggregate, a.kind, a.id, a.version, f.kept
FROM forgetting f JOIN aggregates a ON a.aggregate = f.aggregate

-- name: end_forgetting
-- Nothing is left to delete.
DELETE FROM forgetting WHERE aggregate = ?

-- name: forget_events
-- A piece of the log below the tombstone's event.
DELETE FROM events WHERE position IN (
    SELECT position FROM events WHERE aggregate = ? AND version < ? LIMIT ?)

-- name: forget_rows
-- A piece of the projections other than the tables that are kept, an array in JSON.
DELETE FROM projections WHERE position IN (
    SELECT position FROM projections WHERE kind = ? AND id = ? AND tab NOT IN (SELECT value FROM json_each(?)) LIMIT ?)

-- name: forget_claims
-- A piece of the claims of an owner outside the spaces that are kept, an array in JSON.
DELETE FROM claims WHERE (space, key) IN (
    SELECT space, key FROM claims
    WHERE (owner = ?1 OR owner > ?1 || ' ' AND owner < ?1 || '!') 
      AND space NOT IN (SELECT value FROM json_each(?2)) LIMIT ?3)

-- name: expire_claims
-- A piece of the claims that count as free anyway.
DELETE FROM claims WHERE (space, key) IN (
    SELECT space, key FROM claims WHERE expires_ns <= ? LIMIT ?)

-- name: read_meta
-- A value of the database itself.
SELECT value FROM meta WHERE name = ?

-- name: write_meta
-- Set a value of the database itself.
INSERT INTO meta (name, value) VALUES (?, ?)
ON CONFLICT (name) DO UPDATE SET value = excluded.value

-- name: drop_meta
-- Remove a value of the database itself.
DELETE FROM meta WHERE name = ?
