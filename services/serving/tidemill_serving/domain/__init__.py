"""What serving decides: pure and synchronous, no clock, no network."""
