-- Where several write a partition: what each had said before the position that a restart reads from.
CREATE TABLE monitoring.progress (
    pipeline text NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    watermark_us bigint NOT NULL,
    writers jsonb NOT NULL,
    PRIMARY KEY (pipeline, topic, partition)
);
