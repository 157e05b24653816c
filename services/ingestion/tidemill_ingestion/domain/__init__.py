"""What ingestion decides: pure and synchronous, no clock, no network."""
