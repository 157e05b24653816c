"""The trainer service of Tidemill."""
