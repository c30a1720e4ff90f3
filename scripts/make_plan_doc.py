"""Write docs/plan.md from the settings themselves; with `--check`, say whether it is up to date and write nothing."""

import argparse
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from common.plan.keys import Key, keys, tables

PAGE = Path(__file__).resolve().parents[1] / "docs" / "plan.md"
_BEGIN = """\
# The keys of a plan

A study is one `plan.toml`. Every key is below: its type, its rule, its default, and what another value costs. A key
that is not in a plan keeps its default. *Cost* names budget (a part of each patient's epsilon), noise, time and space.

`wardround plan new PLAN` drafts a plan with comments. `wardround plan check PLAN` names every fault at once.
`wardround plan explain KEY` prints an entry of this page. `wardround plan budget PLAN --patients N` shows what it buys.

Version 0.1.0 has every key, unless its row says otherwise. `scripts/make_plan_doc.py` writes this page from
`common/plan/`. Rules between two keys are in the `_check` of their table there; a refusal says the rule."""


def page() -> str:
    """The page's text."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _BEGIN
    told = tables()
    for table, entries in groupby(keys(), key=lambda key: key.name.rpartition(".")[0]):
        yield ""
        yield f"## `[{table}]`" if table else "## At the top"
        yield ""
        if table:
            yield told[table]
            yield ""
        yield "| key | type and rule | default | meaning | cost |"
        yield "|---|---|---|---|---|"
        for key in entries:
            yield _row(key)


def _row(key: Key) -> str:
    rule = ". ".join(part[:1].upper() + part[1:] for part in (key.type, *filter(None, key.rule.split("; "))))
    default = f"`{key.default}`" if key.default is not None else "must be given"
    since = "" if key.since == "0.1.0" else f" Since {key.since}."
    cells = (f"`{key.name.rpartition('.')[2]}`", rule, default, key.words + since, key.costs)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    text = page()
    if not parser.parse_args().check:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        sys.stderr.write("docs/plan.md is stale: run `python scripts/make_plan_doc.py`\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
