"""Kafka in, Kafka out: a task reads, asks the domain, writes, and stores how far it got. It never decides."""
