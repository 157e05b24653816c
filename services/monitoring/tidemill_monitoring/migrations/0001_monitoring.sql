-- One row a pipeline: where the merge stands and the state of everything that folds over it.
CREATE TABLE monitoring.merges (
    pipeline text PRIMARY KEY,
    generation bigint NOT NULL DEFAULT 0,
    released_until_us bigint NOT NULL,
    state bytea NOT NULL
);

-- Predictions and labels waiting for each other, and keys that are closed; `ordinal` keeps the order of the merge.
CREATE TABLE monitoring.waiting (
    pipeline text NOT NULL,
    kind text NOT NULL,
    key text NOT NULL,
    ordinal bigint GENERATED ALWAYS AS IDENTITY,
    at_us bigint NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (pipeline, kind, key)
);

-- Alarms and requests as they were decided, in order.
CREATE TABLE monitoring.decisions (
    pipeline text NOT NULL,
    ordinal bigint NOT NULL,
    event_id uuid NOT NULL UNIQUE,
    type text NOT NULL,
    at_us bigint NOT NULL,
    body jsonb NOT NULL,
    PRIMARY KEY (pipeline, ordinal)
);

-- Prequential metrics by event-time pane and segment ('' is everything): exact sums by tidemill_engine.stats.LossSums.
CREATE TABLE monitoring.metrics (
    pipeline text NOT NULL,
    segment text NOT NULL,
    pane_us bigint NOT NULL,
    sums jsonb NOT NULL,
    shadows jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (pipeline, segment, pane_us)
);

-- Which outcome a prediction got, for lineage.
CREATE TABLE monitoring.outcomes (
    pipeline text NOT NULL,
    seq bigint NOT NULL,
    prediction_id uuid NOT NULL,
    label_event text NOT NULL,
    label_partition integer NOT NULL,
    label_seq bigint NOT NULL,
    PRIMARY KEY (pipeline, seq)
);
CREATE INDEX outcomes_by_prediction ON monitoring.outcomes (prediction_id);
