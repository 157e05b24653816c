"""Which rows train, which window wins, what the manifest says. Pure: columns in, bytes out; no clock, no chance."""

SOURCE = "/services/trainer"  # the `source` of its events
