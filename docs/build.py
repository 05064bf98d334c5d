"""Write the pages of docs/objectives.

    python docs/build.py

They are made of the objectives' docstrings and settings, the recipes, docs/results, which docs/record.py writes, and
docs/papers.yaml. Pages of objectives that are gone are removed.
"""

import sys
from pathlib import Path

from method_pages.pages import pages

FOLDER = Path(__file__).parent / "objectives"


def main() -> int:
    """Write every page that is not as it should be."""
    try:
        made = pages()
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.md"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    sys.stdout.write(f"{len(made)} pages in {FOLDER.relative_to(FOLDER.parent.parent)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
