"""The demo: a year of real flights, replayed in event time against a running stack."""
