"""The features service of Tidemill."""
