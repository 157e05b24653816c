-- Who owns a partition number, and how often it has stored: both are compared before anything below is written.
CREATE TABLE owners (
    partition integer PRIMARY KEY,
    epoch bigint NOT NULL,
    generation bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- State of one view partition: where its input goes on, and what was seen until there.
CREATE TABLE checkpoints (
    view text NOT NULL,
    version text NOT NULL,
    partition integer NOT NULL,
    marks jsonb NOT NULL,
    PRIMARY KEY (view, version, partition)
) WITH (fillfactor = 50);

-- Changed keys, newest number wins. Small segments lie here, large ones in the artifact store under their digest.
CREATE TABLE segments (
    view text NOT NULL,
    version text NOT NULL,
    partition integer NOT NULL,
    number bigint NOT NULL,
    size bigint NOT NULL,
    digest text,
    body bytea,
    PRIMARY KEY (view, version, partition, number),
    CHECK ((digest IS NULL) <> (body IS NULL))
);
ALTER TABLE segments ALTER COLUMN body SET STORAGE EXTERNAL; -- compressed already

-- How far the router has brought a source partition for a view. Readers drop repeats: an old value is harmless.
CREATE TABLE routes (
    view text NOT NULL,
    version text NOT NULL,
    partition integer NOT NULL,
    next_offset bigint NOT NULL,
    seq bigint,
    watermark_us bigint,
    PRIMARY KEY (view, version, partition)
) WITH (fillfactor = 50);
