"""Bounded attacks on what the project runs, on this machine alone: what held once goes on holding."""
