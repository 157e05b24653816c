"""Kafka, Postgres, HTTP and telemetry for Tidemill services."""
