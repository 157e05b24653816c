"""Tidemill: keep machine-learning models good while the world moves."""
