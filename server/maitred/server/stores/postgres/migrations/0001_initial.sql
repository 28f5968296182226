-- The first schema: aggregates, their log, claims, projections.
-- minimum server: 1

-- One row for every aggregate that ever was; rows are never deleted, so that no id is free again.
-- `place` is the position of the first event, by which listings are ordered; `position` is that of
-- the newest. `wake_at_ns` is the truth and has no index; `armed_ns` is what the sweeper looks at.
-- A plain append changes no indexed column; the room left in each page takes the new row version.
CREATE TABLE IF NOT EXISTS maitred.aggregates (
    version     bigint           NOT NULL CHECK (version > 0),
    place       bigint           NOT NULL,
    position    bigint           NOT NULL,
    time_ns     bigint           NOT NULL,
    wake_at_ns  bigint,
    armed_ns    bigint,
    created_ns  bigint           NOT NULL,
    status      bigint           NOT NULL,
    attention   bigint           NOT NULL,
    kind        smallint         NOT NULL,
    tombstone   boolean          NOT NULL DEFAULT false,
    id          text COLLATE "C" NOT NULL,
    customer_id text COLLATE "C" NOT NULL,
    labels      text,
    commit_id   bytea            NOT NULL,
    chain       bytea            NOT NULL,
    body        bytea            NOT NULL,
    PRIMARY KEY (kind, id)
) WITH (fillfactor = 80);

CREATE INDEX IF NOT EXISTS aggregates_by_kind ON maitred.aggregates (kind, place)
    WHERE NOT tombstone;
CREATE INDEX IF NOT EXISTS aggregates_by_status ON maitred.aggregates (kind, status, place)
    WHERE NOT tombstone;
CREATE INDEX IF NOT EXISTS aggregates_by_customer
    ON maitred.aggregates (kind, customer_id, place) WHERE NOT tombstone AND customer_id <> '';
CREATE INDEX IF NOT EXISTS aggregates_by_attention
    ON maitred.aggregates (kind, attention, place) WHERE NOT tombstone AND attention <> 0;
CREATE INDEX IF NOT EXISTS aggregates_by_created ON maitred.aggregates (kind, created_ns)
    WHERE NOT tombstone;
CREATE INDEX IF NOT EXISTS aggregates_by_armed ON maitred.aggregates (armed_ns)
    WHERE armed_ns IS NOT NULL;

CREATE TABLE IF NOT EXISTS maitred.labels (
    place bigint           NOT NULL,
    kind  smallint         NOT NULL,
    name  text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    id    text COLLATE "C" NOT NULL,
    PRIMARY KEY (kind, name, value, place)
);

-- The log. Version and request are unique within an aggregate: a second guard beside the lock on
-- the head. A position is unique and says its lane; see feed.py.
CREATE TABLE IF NOT EXISTS maitred.events (
    version     bigint           NOT NULL,
    position    bigint           NOT NULL,
    time_ns     bigint           NOT NULL,
    change      bigint           NOT NULL,
    kind        smallint         NOT NULL,
    lane        smallint         NOT NULL,
    id          text COLLATE "C" NOT NULL,
    commit_id   bytea            NOT NULL,
    request_id  bytea,
    fingerprint bytea            NOT NULL,
    facts       bytea            NOT NULL,
    personal    bytea,
    chain       bytea            NOT NULL,
    PRIMARY KEY (kind, id, version)
);

CREATE UNIQUE INDEX IF NOT EXISTS events_by_request ON maitred.events (request_id, kind, id)
    WHERE request_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS events_by_position ON maitred.events (lane, position);

-- The last position given in each lane; whoever writes holds the row of its lane until it commits.
CREATE TABLE IF NOT EXISTS maitred.lanes (
    lane     smallint NOT NULL PRIMARY KEY,
    position bigint   NOT NULL
);
INSERT INTO maitred.lanes (lane, position)
SELECT n, n FROM generate_series(0, 63) AS n
ON CONFLICT (lane) DO NOTHING;

CREATE TABLE IF NOT EXISTS maitred.claims (
    expires_ns bigint,
    space      text COLLATE "C" NOT NULL,
    key        text COLLATE "C" NOT NULL,
    owner      text COLLATE "C" NOT NULL,
    PRIMARY KEY (space, key)
);

CREATE INDEX IF NOT EXISTS claims_by_owner ON maitred.claims (owner);
CREATE INDEX IF NOT EXISTS claims_by_expiry ON maitred.claims (expires_ns)
    WHERE expires_ns IS NOT NULL;

CREATE TABLE IF NOT EXISTS maitred.projections (
    position   bigint           NOT NULL,
    created_ns bigint           NOT NULL,
    status     bigint           NOT NULL,
    flag       bigint           NOT NULL,
    tab        smallint         NOT NULL,
    kind       smallint         NOT NULL,
    key        text COLLATE "C" NOT NULL,
    id         text COLLATE "C" NOT NULL,
    body       bytea            NOT NULL,
    PRIMARY KEY (tab, key)
);

CREATE INDEX IF NOT EXISTS projections_by_ref ON maitred.projections (kind, id, tab, position);
CREATE INDEX IF NOT EXISTS projections_by_status
    ON maitred.projections (tab, status, position);
CREATE INDEX IF NOT EXISTS projections_by_flag ON maitred.projections (tab, flag, position)
    WHERE flag <> 0;
CREATE INDEX IF NOT EXISTS projections_by_table ON maitred.projections (tab, position);

CREATE TABLE IF NOT EXISTS maitred.leases (
    token      bigint           NOT NULL,
    expires_ns bigint           NOT NULL,
    name       text COLLATE "C" NOT NULL PRIMARY KEY,
    owner      text COLLATE "C" NOT NULL
);

-- Tombstones whose events are not all deleted yet.
CREATE TABLE IF NOT EXISTS maitred.forgetting (
    version bigint           NOT NULL,
    kind    smallint         NOT NULL,
    id      text COLLATE "C" NOT NULL,
    PRIMARY KEY (kind, id)
);
