"""Joins, drift and policy as a fold over the ordered merge. Pure and synchronous: no clock, no chance, no await."""
