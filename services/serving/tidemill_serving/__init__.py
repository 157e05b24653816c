"""The serving service of Tidemill."""
