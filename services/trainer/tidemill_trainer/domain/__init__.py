"""Which rows train, which window wins, what the manifest says. Pure: columns in, bytes out; no clock, no chance."""
