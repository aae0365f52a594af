"""Logs of other tools as score tables, one file a format. `cascade.scores.reading` knows which there are."""
