-- From this watermark on a cold key is forgotten: whoever reads what is due does not fetch its state then.
ALTER TABLE cold ADD COLUMN dies_us bigint NOT NULL DEFAULT 9223372036854775807;
