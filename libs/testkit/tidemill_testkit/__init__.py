"""Fixtures, factories and crash points for Tidemill tests."""
