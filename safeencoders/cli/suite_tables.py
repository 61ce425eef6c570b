"""The work of `safeencoders suites`."""

import time
from pathlib import Path
from typing import Any

from safeencoders.categories import CATEGORIES
from safeencoders.evaluation.suite_sources import SOURCES, Source
from safeencoders.evaluation.suites import OnError, read_suite
from safeencoders.evaluation.tables import Cell, Table
from safeencoders.files import write_json
from safeencoders.provenance import manifest

_SHOWN = 20


def print_suites() -> None:
    """Print the known suites, and where to get them."""
    rows: list[list[Cell]] = [
        [name, source.rows, "benign" if source.benign else _categories(source), source.licence]
        for name, source in SOURCES.items()
    ]
    print(Table("Prompt suites", ["name", "rows", "categories", "licence"], rows).text())
    print("\nrows: as published, - where nobody counted. Any other file of prompts is read as the suite 'csv'.")
    print("pictoworld's own prompts need no file: pictoworld:test, pictoworld:val.")
    print("\nWhat they are, and where to get them; nothing is shipped or fetched:\n")
    for name, source in SOURCES.items():
        print(f"{name}: {source.about}\n    {source.where}")


def print_description(
    name: str, file: Path | None, *, sha256: str | None, on_error: OnError, json_file: Path | None
) -> None:
    """Print what is in a suite's file; also write it as JSON, with a manifest, when asked.

    Raises:
        UnknownNameError, BadInputError, IntegrityError, MissingExtraError: as `read_suite`.
        OutputError: the JSON cannot be written.
    """
    started = time.perf_counter()
    found = read_suite(name, file, on_error=on_error, sha256=sha256).description()
    print("\n\n".join([_summary(found), *(table.text() for table in _tables(found))]))
    if json_file is None:
        return
    command = ["safeencoders", "suites", "describe", name, *(["--file", str(file)] if file else [])]
    data = {found["name"]: found["sha256"]}
    made = manifest(command, seeds={}, weights={}, data=data, seconds=time.perf_counter() - started)
    write_json(json_file, {"suite": found, "manifest": made})


def _categories(source: Source) -> str:
    return "the seven of I2P" if source.categories == CATEGORIES else ", ".join(source.categories) or "its own"


def _summary(found: dict[str, Any]) -> str:
    names = ("name", "rows", "usable", "distinct", "duplicates", "benign", "licence", "source", "sha256")
    return "\n".join([*(f"{name:<10}  {found[name]}" for name in names), *(f"note: {one}" for one in found["notes"])])


def _tables(found: dict[str, Any]) -> list[Table]:
    tables = []
    if found["by_category"]:
        counts = [[name, count] for name, count in found["by_category"].items()]
        tables.append(Table("Rows by category (a row may be in several)", ["", "rows"], counts))
    problems = found["problems"]
    if problems:
        more = len(problems) - _SHOWN
        note = f"{more:,} more; --json FILE lists all." if more > 0 else ""
        shown = [[one["row"], one["reason"]] for one in problems[:_SHOWN]]
        tables.append(Table(f"Rows left out: {len(problems):,}", ["row", "reason"], shown, note))
    return tables
