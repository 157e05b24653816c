"""Decisions of the registry: versions, the gate, the champion pointer, the audit chain. Pure and synchronous."""
