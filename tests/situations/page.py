"""The table of all situations, for the documentation. `python -m situations.page` in `tests` writes it."""

import json
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

from situations.cases import SITUATIONS, Situation, made, taken_away
from situations.readers import PEERS, files_left_open, ours, outcome

PAGE = Path(__file__).parents[2] / "docs" / "situations.md"

_HEAD = """# Data as people have it

Small data sets with a known content, read by ssl-inv and by three other readers: torchvision {torchvision}
(`ImageFolder`), timm {timm} (`create_dataset`), lightly {lightly} (`LightlyDataset`), each with its defaults, Pillow
{pillow}. `right` means: all images, their colours and their classes are read, broken files are left out, or what cannot
be read with sense is refused. ssl-inv is right in every row, which a test holds; a setting that it needs, because only
the owner of the data knows, stands beside it. The others are given the same path. `tests/situations` has the files and
writes this page.
"""


def runs(situation: Situation) -> bool:
    """Whether what a situation needs is installed."""
    return situation.extra is None or find_spec(situation.extra) is not None


def rows() -> dict[tuple[str, str], dict[str, str]]:
    """What each reader makes of each situation."""
    with files_left_open():
        return {(one.group, one.name): _row(one) for one in SITUATIONS if runs(one)}


def _row(situation: Situation) -> dict[str, str]:
    each = {}
    readers = {"ssl-inv": lambda path: ours(situation, path)[0], **PEERS}
    for name, read in readers.items():
        if name in PEERS and situation.data != "folder":
            each[name] = "–"
            continue
        with tempfile.TemporaryDirectory() as top:
            folder = Path(top, "data")
            path = made(situation, folder)
            each[name] = outcome(situation, lambda read=read, path=path: read(path))
            taken_away(folder)
    return each


def page(found: dict[tuple[str, str], dict[str, str]]) -> str:
    """The page of the documentation."""
    versions = {name: version(name) for name in ("torchvision", "timm", "lightly", "pillow")}
    counts = {name: sum(each[name] == "right" for each in found.values()) for name in PEERS}
    lines = [_HEAD.format(**versions)]
    folders = sum(each["timm"] != "–" for each in found.values())
    each_count = ", ".join(f"{name} reads {count}" for name, count in counts.items())
    lines.append(
        f"Of {folders} folders and archives, {each_count} right. They read none of the other forms by a path alone."
    )
    for group, every in groupby(filter(runs, SITUATIONS), key=lambda one: one.group):
        lines += [f"\n## {group.capitalize()}\n", f"| data | right | ssl-inv | {' | '.join(PEERS)} |"]
        lines.append("|" + "---|" * (3 + len(PEERS)))
        for one in every:
            each = found[group, one.name]
            settings = f", `{_settings(one)}`" if one.settings else ""
            cells = [one.name, _right(one), each["ssl-inv"] + settings, *(each[name] for name in PEERS)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _settings(situation: Situation) -> str:
    return ", ".join(
        f"{name}: {json.dumps(value) if not isinstance(value, str) else value}"
        for name, value in situation.settings.items()
    )


def _right(situation: Situation) -> str:
    if situation.right is None:
        return "refused"
    colours, classes = {one for one, _ in situation.right}, {one for _, one in situation.right} - {None}
    if situation.group == "values" and len(colours) == 1:
        red, green, blue = next(iter(colours))
        return str(red) if red == green == blue else f"{red}/{green}/{blue}"
    images = f"{len(situation.right)} images"
    return f"{images}, {len(classes)} classes" if classes else f"{images}, no classes"


if __name__ == "__main__":
    PAGE.write_text(page(rows()), encoding="utf-8")
