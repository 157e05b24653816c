-- State of keys that memory has no room for, one row each, until an event or the time that is due needs them.
CREATE TABLE cold (
    view text NOT NULL,
    version text NOT NULL,
    partition integer NOT NULL,
    key bytea NOT NULL,
    due_us bigint NOT NULL,
    blob bytea NOT NULL,
    PRIMARY KEY (view, version, partition, key)
);
CREATE INDEX cold_due ON cold (view, version, partition, due_us, key);
