-- What is told behind the breaches of a batch, up to where all is judged, quarantines nothing.
CREATE OR REPLACE FUNCTION judge(
    p_source text, p_partition integer, p_low bigint, p_position bigint[], p_counts bigint[],
    p_ids text[], p_digests bytea[], p_outcomes text[], p_offsets bigint[], p_seqs bigint[], p_times bigint[],
    p_conflicts text[], p_state bytea, p_topic text, p_breaches jsonb
) RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    breach jsonb;
    fresh  boolean;
BEGIN
    PERFORM decide(
        p_source, p_partition, p_low, p_position, p_counts, p_ids, p_digests, p_outcomes, p_offsets, p_seqs, p_times,
        p_conflicts
    );
    INSERT INTO quality AS q (source, partition, state) VALUES (p_source, p_partition, p_state)
    ON CONFLICT (source, partition) DO UPDATE SET state = excluded.state;
    FOR breach IN SELECT * FROM jsonb_array_elements(p_breaches) LOOP
        fresh := true;
        IF breach ? 'rule' THEN
            INSERT INTO quarantine (id, source, partition, field, rule, value, bound, row_count, from_us, to_us, ranges)
            VALUES (
                (breach->>'id')::uuid, p_source, p_partition, breach->>'field', breach->>'rule',
                (breach->>'value')::double precision, (breach->>'bound')::double precision, (breach->>'rows')::bigint,
                (breach->>'from_us')::bigint, (breach->>'to_us')::bigint, breach->'ranges'
            ) ON CONFLICT (id) DO NOTHING;
            fresh := FOUND;
        END IF;
        IF fresh THEN
            INSERT INTO outbox (event_id, topic, key, value, header_names, header_values)
            VALUES (
                breach->>'id', p_topic, convert_to(p_source, 'UTF8'), convert_to(breach->>'event', 'UTF8'),
                ARRAY(SELECT h->>0 FROM jsonb_array_elements(breach->'headers') WITH ORDINALITY AS t (h, n) ORDER BY n),
                ARRAY(
                    SELECT convert_to(h->>1, 'UTF8')
                    FROM jsonb_array_elements(breach->'headers') WITH ORDINALITY AS t (h, n) ORDER BY n
                )
            );
            PERFORM pg_notify('tidemill_outbox_ingestion', '');
        END IF;
    END LOOP;
END $$;
