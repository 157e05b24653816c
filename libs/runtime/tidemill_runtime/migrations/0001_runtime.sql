-- What the delivery patterns need in every service's schema. The migrating connection has set search_path to that schema.

CREATE TABLE consumer_offsets (
    consumer text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    next bigint NOT NULL CHECK (next >= 0),
    PRIMARY KEY (consumer, topic, partition)
) WITH (fillfactor = 50); -- updated for every batch: room for heap-only tuples

CREATE TABLE inbox (
    consumer text NOT NULL,
    event_id text NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, event_id)
);

CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id text NOT NULL,
    topic text NOT NULL,
    key bytea,
    value bytea NOT NULL,
    header_names text[] NOT NULL,
    header_values bytea[] NOT NULL
);

-- How far the relay has published and knows it: a successor looks for its predecessor's last words only behind this.
CREATE TABLE relay_positions (
    topic text NOT NULL,
    partition integer NOT NULL,
    next bigint NOT NULL,
    PRIMARY KEY (topic, partition)
);

CREATE TABLE jobs (
    id text PRIMARY KEY,
    sequence bigint GENERATED ALWAYS AS IDENTITY,
    key text NOT NULL,
    payload jsonb NOT NULL,
    status text NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'refused')),
    attempt integer NOT NULL DEFAULT 0,
    worker text,
    lease_until timestamptz,
    queued_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    result jsonb,
    traceparent text
);

CREATE UNIQUE INDEX jobs_one_active_per_key ON jobs (key) WHERE status IN ('queued', 'running');
CREATE INDEX jobs_claimable ON jobs (sequence) WHERE status IN ('queued', 'running');
