-- How far the router has brought a source partition for a view. Rows of all views of a source share a topic now, so
-- every route begins anew, and readers drop what they have; `routes` was about topics that nobody reads any more.
CREATE TABLE routed (
    view text NOT NULL,
    version text NOT NULL,
    partition integer NOT NULL,
    next_offset bigint NOT NULL,
    seq bigint,
    watermark_us bigint,
    PRIMARY KEY (view, version, partition)
) WITH (fillfactor = 50);
DROP TABLE routes;
