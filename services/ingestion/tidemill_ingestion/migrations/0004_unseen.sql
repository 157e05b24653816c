-- `decide` for a batch whose ids nobody has looked up: it is refused as a whole if one of them is known, for whatever.
CREATE FUNCTION decide_unseen(
    p_source text, p_partition integer, p_low bigint, p_position bigint[], p_counts bigint[],
    p_ids text[], p_digests bytea[], p_outcomes text[], p_offsets bigint[], p_seqs bigint[], p_times bigint[]
) RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    fresh bigint;
BEGIN
    PERFORM decide(p_source, p_partition, p_low, p_position, p_counts, '{}', '{}', '{}', '{}', '{}', '{}', '{}');
    INSERT INTO known_events (source, id, digest, outcome, partition, raw_offset, seq, event_us)
        SELECT p_source, c.id, c.digest, c.outcome, p_partition, c.raw_offset, c.seq, c.event_us
        FROM unnest(p_ids, p_digests, p_outcomes, p_offsets, p_seqs, p_times)
            AS c (id, digest, outcome, raw_offset, seq, event_us)
        ORDER BY c.id -- as in `decide`
    ON CONFLICT (source, id) DO NOTHING;
    GET DIAGNOSTICS fresh = ROW_COUNT;
    IF fresh <> cardinality(p_ids) THEN
        RAISE EXCEPTION 'an id is known' USING ERRCODE = 'TM002';
    END IF;
END $$;
