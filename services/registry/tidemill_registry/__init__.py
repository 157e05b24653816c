"""The registry service of Tidemill."""
