"""What stands in certificate files, read without the package."""

from typing import Any


def entries_of(table: dict[str, Any]) -> list[tuple[str, str | None, int, int]]:
    """The entries of a section as written: name, ablation, count, correct."""
    found = []
    for name, *counts in table["rows"]:
        columns = table["columns"][1:]
        # A name alone: all pairs are right.
        by_column = dict(zip(columns, counts, strict=True)) if counts else dict.fromkeys(columns, table["count"])
        for column, count in by_column.items():
            *ablation, what = column.split()
            if what == "count" and count is not None:
                correct = by_column[" ".join([*ablation, "correct"])]
                found.append((name, ablation[0] if ablation else None, count, correct))
    return found
