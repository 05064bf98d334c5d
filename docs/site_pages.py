"""What the site has beside the files of docs/: README as the first page, objectives, recipes, and the API.

A hook of MkDocs. Links that lead out of docs/ in the repository lead to a page or a file of the site here.
"""

import base64
import json
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

DOCS = Path(__file__).parent
REPOSITORY = DOCS.parent
sys.path.insert(0, str(DOCS))

import build  # noqa: E402

PROJECT = {"index.md": "README.md", "CHANGELOG.md": "CHANGELOG.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}
"""Pages that are files at the top of the repository."""

NOTEBOOK = "notebooks/first_steps.ipynb"

ROOMS = {
    "ssl_inv": ("The Python interface", ["ssl_inv"]),
    "objectives": ("Objectives: the contract", ["objectives.base", "objectives.around", "objectives.multi_crop"]),
    "views": ("Views", ["views"]),
    "augment": ("Augmentation", ["augment"]),
    "transforms": ("Transforms and groups", ["transforms"]),
    "data": ("Data", ["data"]),
    "nn": ("Networks", ["nn"]),
    "memories": ("Memories", ["memories"]),
    "evaluation": ("Evaluation", ["evaluation"]),
    "testing": ("Testing your own parts", ["testing"]),
}
"""Title and modules of every page of the API. A package stands for all of its modules."""

_LINK = re.compile(r"(\]\()(?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?(\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    for place, text in generated().items():
        if (old := files.get_file_from_path(place)) is not None:
            files.remove(old)
        files.append(File.generated(config, place, content=text))
    return files


def on_config(config: Any) -> Any:
    """Replace the folders of the navigation by their pages."""
    made = generated()
    for entry in config.nav:
        for title, place in list(entry.items()):
            if isinstance(place, str) and place.endswith("/"):
                entry[title] = [one for one in made if one.startswith(place) and one.endswith(".md")]
    return config


def generated() -> dict[str, str | bytes]:
    """The text of every page and file that is not in docs/, by its place in the site."""
    made: dict[str, str | bytes] = {
        place: (REPOSITORY / file).read_text(encoding="utf-8") for place, file in PROJECT.items()
    }
    made |= _notebook(DOCS / NOTEBOOK, Path(NOTEBOOK).with_suffix(".md").as_posix())
    for path, text in build.pages().items():
        if path.startswith(f"{build.SITE}/") and not path.endswith("/README.md"):
            # The title is the first heading only if nothing stands before it.
            text = text.partition("-->")[2].lstrip()
            text, module = re.sub(r"\[code\]\([^)]*\)", "[Python](#in-python)", text), _module(text)
            made[f"objectives/{Path(path).name}"] = f"{text}\n## In Python\n\n::: {module}\n"
    for name, recipe in build.shipped_recipes().items():
        text = recipe.read_text(encoding="utf-8")
        made[f"recipes/{name}.md"] = f"# {name}\n\n```yaml\n{text}```\n"
    for page, (title, modules) in ROOMS.items():
        parts = "\n\n".join(f"::: {name}" for module in modules for name in _inside(module))
        made[f"api/{page}.md"] = f"# {title}\n\n{parts}\n"
    return made


def _notebook(path: Path, place: str) -> dict[str, str | bytes]:
    """A notebook as it ran: its page, and the pictures on it."""
    made: dict[str, str | bytes] = {}
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
        for output in cell.get("outputs", []):
            shown = output.get("data", {})
            if "image/png" in shown:
                picture = f"{place.removesuffix('.md')}-{len(made) + 1}.png"
                made[picture] = base64.b64decode("".join(shown["image/png"]))
                parts.append(f"![]({Path(picture).name})")
            elif text := "".join(shown.get("text/plain", output.get("text", ""))):
                parts.append(f"```text\n{text}\n```")
    made[place] = "\n\n".join([*parts, f"[The notebook itself]({path.name})."]) + "\n"
    return made


def _module(page: str) -> str:
    """The module that the page of an objective links to as its code."""
    found = re.search(r"\[code\]\([./]*([^)]*)\.py\)", page)
    assert found is not None
    return found[1].replace("/", ".")


def _inside(module: str) -> list[str]:
    """A module, and all public ones inside it."""
    if module == "ssl_inv":
        return ["ssl_inv"]
    top = REPOSITORY / "ssl_inv" / Path(*module.split("."))
    if not top.is_dir():
        return [f"ssl_inv.{module}"]
    names = [
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(top.rglob("*.py"))
    ]
    return [name for name in names if not any(part.startswith("_") for part in name.split("."))]


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead the links of the repository to the site."""
    here = page.file.src_uri
    origin = _origin(here)
    if here == "objectives.md":  # Its tables need the width.
        page.meta["hide"] = ["toc"]

    def led(match: re.Match[str]) -> str:
        opening, target, anchor, closing = match[1], match[2], match[3] or "", match[4]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
        if (found := _place(place)) is None:
            return match[0]
        return f"{opening}{posixpath.relpath(found, posixpath.dirname(here) or '.')}{anchor}{closing}"

    return _LINK.sub(led, markdown)


def _origin(place: str) -> str:
    """Where the text of a page of the site lies in the repository, or would lie."""
    if place in PROJECT:
        return PROJECT[place]
    return f"{build.SITE}/{Path(place).name}" if place.startswith("objectives/") else f"docs/{place}"


def _place(path: str) -> str | None:
    """The place in the site of a file of the repository; None if it has none."""
    if path == f"{build.SITE}/README.md":
        return "objectives.md"
    for start, inside in (("docs/", ""), (f"{build.SITE}/", "objectives/")):
        if path.startswith(start):
            return f"{inside}{path.removeprefix(start)}"
    for place, file in PROJECT.items():
        if path == file:
            return place
    if path.startswith("recipes/") and path.endswith(".yaml"):
        return f"recipes/{Path(path).stem}.md"
    if path.startswith("ssl_inv/objectives/"):
        return f"objectives/{Path(path).stem.replace('_', '-')}.md"
    return None
