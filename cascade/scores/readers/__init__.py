"""Logs of other tools, and of this server, as score tables: one file a format."""
