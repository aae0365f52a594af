"""Where `python -m cascade.confidences` went: `python -m cascade.score --out FILE --confidences all`."""

from __future__ import annotations

from cascade.errors import CascadeError, one_line_errors


@one_line_errors()
def main(args: list[str] | None = None) -> None:
    """Says so.

    Raises:
        CascadeError: Always.
    """
    raise CascadeError(
        "Expected `python -m cascade.score --data.model … --data.task … --out FILE.parquet --confidences all`, which "
        "took the place of `python -m cascade.confidences`"
    )


if __name__ == "__main__":
    main()
