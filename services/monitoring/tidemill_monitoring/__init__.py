"""The monitoring service of Tidemill."""
