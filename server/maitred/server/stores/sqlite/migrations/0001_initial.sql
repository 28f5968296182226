-- The first schema: aggregates, their log, claims, projections.

CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- One row for every aggregate that ever was; rows are never deleted, so that no id is free again
-- and `aggregate` only grows: it is the position of listings.
-- `wake_at_ns` is the truth and has no index; `armed_ns` is what the sweeper looks at. See jobs.py.
CREATE TABLE aggregates (
    aggregate   INTEGER PRIMARY KEY,
    kind        INTEGER NOT NULL,
    id          TEXT    NOT NULL,
    version     INTEGER NOT NULL CHECK (version > 0),
    commit_id   BLOB    NOT NULL,
    time_ns     INTEGER NOT NULL,
    wake_at_ns  INTEGER,
    armed_ns    INTEGER,
    tombstone   INTEGER NOT NULL DEFAULT 0,
    created_ns  INTEGER NOT NULL,
    status      INTEGER NOT NULL,
    customer_id TEXT    NOT NULL,
    attention   INTEGER NOT NULL,
    labels      TEXT,
    chain       BLOB    NOT NULL,
    body        BLOB    NOT NULL
) STRICT;

-- None of these names a column that a plain append changes. Each ends in the position by itself.
CREATE UNIQUE INDEX aggregates_by_ref ON aggregates (kind, id);
CREATE INDEX aggregates_by_kind ON aggregates (kind) WHERE tombstone = 0;
CREATE INDEX aggregates_by_status ON aggregates (kind, status) WHERE tombstone = 0;
CREATE INDEX aggregates_by_customer ON aggregates (kind, customer_id)
    WHERE tombstone = 0 AND customer_id <> '';
CREATE INDEX aggregates_by_attention ON aggregates (kind, attention)
    WHERE tombstone = 0 AND attention <> 0;
CREATE INDEX aggregates_by_created ON aggregates (kind, created_ns) WHERE tombstone = 0;
CREATE INDEX aggregates_by_armed ON aggregates (armed_ns) WHERE armed_ns IS NOT NULL;

CREATE TABLE labels (
    kind      INTEGER NOT NULL,
    name      TEXT    NOT NULL,
    value     TEXT    NOT NULL,
    aggregate INTEGER NOT NULL,
    PRIMARY KEY (kind, name, value, aggregate)
) STRICT, WITHOUT ROWID;

-- The log. `position` needs no AUTOINCREMENT: the event with the highest one is never deleted,
-- because the tombstone's event is always younger than the events that it outlives.
CREATE TABLE events (
    position    INTEGER PRIMARY KEY,
    aggregate   INTEGER NOT NULL,
    version     INTEGER NOT NULL,
    time_ns     INTEGER NOT NULL,
    change      INTEGER NOT NULL,
    request_id  BLOB,
    fingerprint BLOB    NOT NULL,
    facts       BLOB    NOT NULL,
    personal    BLOB,
    chain       BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX events_by_version ON events (aggregate, version);
CREATE UNIQUE INDEX events_by_request ON events (aggregate, request_id)
    WHERE request_id IS NOT NULL;

CREATE TABLE claims (
    space      TEXT NOT NULL,
    key        TEXT NOT NULL,
    owner      TEXT NOT NULL,
    expires_ns INTEGER,
    PRIMARY KEY (space, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX claims_by_owner ON claims (owner);
CREATE INDEX claims_by_expiry ON claims (expires_ns) WHERE expires_ns IS NOT NULL;

-- AUTOINCREMENT, because deletion may take the youngest row and a position must not come back.
CREATE TABLE projections (
    position   INTEGER PRIMARY KEY AUTOINCREMENT,
    tab        INTEGER NOT NULL,
    key        TEXT    NOT NULL,
    kind       INTEGER NOT NULL,
    id         TEXT    NOT NULL,
    created_ns INTEGER NOT NULL,
    status     INTEGER NOT NULL,
    flag       INTEGER NOT NULL,
    body       BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX projections_by_key ON projections (tab, key);
CREATE INDEX projections_by_ref ON projections (kind, id, tab);
CREATE INDEX projections_by_status ON projections (tab, status);
CREATE INDEX projections_by_flag ON projections (tab, flag) WHERE flag <> 0;
CREATE INDEX projections_by_table ON projections (tab);

CREATE TABLE leases (
    name       TEXT    NOT NULL PRIMARY KEY,
    owner      TEXT    NOT NULL,
    token      INTEGER NOT NULL,
    expires_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Tombstones whose events are not all deleted yet.
CREATE TABLE forgetting (
    aggregate INTEGER PRIMARY KEY
) STRICT;
