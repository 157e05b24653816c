-- One row per event id: which body it stands for, and what became of it. The horizon is pruned by event time.
CREATE TABLE known_events (
    source     text     NOT NULL,
    id         text     NOT NULL,
    digest     bytea    NOT NULL,
    outcome    text     NOT NULL CHECK (outcome IN ('applied', 'late', 'future', 'dead_lettered')),
    partition  integer  NOT NULL,
    raw_offset bigint   NOT NULL,
    seq        bigint,
    event_us   bigint   NOT NULL,
    conflicts  integer  NOT NULL DEFAULT 0,
    PRIMARY KEY (source, id)
);
-- Rows come in about the order of their event time, so a block range index of a few kilobytes finds the old ones.
CREATE INDEX known_events_time ON known_events USING brin (event_us);

-- One row per raw partition. Everything below `next` is decided, everything below `emitted` is also in its topic.
CREATE TABLE partitions (
    source        text    NOT NULL,
    partition     integer NOT NULL,
    next          bigint  NOT NULL DEFAULT 0,
    emitted       bigint  NOT NULL DEFAULT 0,
    seq           bigint  NOT NULL DEFAULT 0,
    watermark_us  bigint,
    newest_us     bigint,
    applied       bigint  NOT NULL DEFAULT 0,
    late          bigint  NOT NULL DEFAULT 0,
    future        bigint  NOT NULL DEFAULT 0,
    dead_lettered bigint  NOT NULL DEFAULT 0,
    duplicates    bigint  NOT NULL DEFAULT 0,
    conflicts     bigint  NOT NULL DEFAULT 0,
    refused       bigint  NOT NULL DEFAULT 0,
    timers        bigint  NOT NULL DEFAULT 0,
    records       bigint  NOT NULL DEFAULT 0,
    PRIMARY KEY (source, partition)
) WITH (fillfactor = 50);

-- Dead letters that were put back into their topic.
CREATE TABLE replays (
    topic     text        NOT NULL,
    partition integer     NOT NULL,
    "offset"  bigint      NOT NULL,
    times     integer     NOT NULL DEFAULT 1,
    at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, partition, "offset")
);

-- The decisions of one batch in one statement: a process that freezes cannot hold a lock, because it is never inside a
-- transaction. TM001: another owner has moved the partition. TM002: another partition has claimed one of the ids since
-- they were looked up, so the caller looks again and decides again.
CREATE FUNCTION decide(
    p_source text, p_partition integer, p_low bigint, p_position bigint[], p_counts bigint[],
    p_ids text[], p_digests bytea[], p_outcomes text[], p_offsets bigint[], p_seqs bigint[], p_times bigint[],
    p_conflicts text[]
) RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    changed bigint;
BEGIN
    UPDATE partitions AS p SET
        next = p_position[1], seq = p_position[2], watermark_us = p_position[3], newest_us = p_position[4],
        emitted = p_low,
        applied = p.applied + p_counts[1], late = p.late + p_counts[2], future = p.future + p_counts[3],
        dead_lettered = p.dead_lettered + p_counts[4], duplicates = p.duplicates + p_counts[5],
        conflicts = p.conflicts + p_counts[6], refused = p.refused + p_counts[7], timers = p.timers + p_counts[8],
        records = p.records + p_counts[9]
    WHERE p.source = p_source AND p.partition = p_partition AND p.next = p_low;
    GET DIAGNOSTICS changed = ROW_COUNT;
    IF changed = 0 THEN
        RAISE EXCEPTION 'partition % of % is no longer at %', p_partition, p_source, p_low USING ERRCODE = 'TM001';
    END IF;
    IF cardinality(p_ids) > 0 THEN
        INSERT INTO known_events AS k (source, id, digest, outcome, partition, raw_offset, seq, event_us)
            SELECT p_source, c.id, c.digest, c.outcome, p_partition, c.raw_offset, c.seq, c.event_us
            FROM unnest(p_ids, p_digests, p_outcomes, p_offsets, p_seqs, p_times)
                AS c (id, digest, outcome, raw_offset, seq, event_us)
            ORDER BY c.id -- one order for all partitions: two batches with common ids wait, they do not deadlock
        ON CONFLICT (source, id) DO UPDATE SET
            digest = excluded.digest, outcome = excluded.outcome, partition = excluded.partition,
            raw_offset = excluded.raw_offset, seq = excluded.seq, event_us = excluded.event_us
            WHERE k.outcome = 'dead_lettered' AND excluded.outcome <> 'dead_lettered';
        GET DIAGNOSTICS changed = ROW_COUNT;
        IF changed <> cardinality(p_ids) THEN
            RAISE EXCEPTION 'an id was claimed meanwhile' USING ERRCODE = 'TM002';
        END IF;
    END IF;
    IF cardinality(p_conflicts) > 0 THEN
        UPDATE known_events SET conflicts = conflicts + 1 WHERE source = p_source AND id = ANY (p_conflicts);
    END IF;
END $$;
