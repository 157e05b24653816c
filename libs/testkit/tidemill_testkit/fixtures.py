"""Pytest fixtures of Tidemill."""
