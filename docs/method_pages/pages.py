"""The page of every objective, and the page that compares them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from method_pages import tables
from method_pages.costs import cost_of_steps
from method_pages.markup import code, escaped, folded, sentence, table
from method_pages.methods import Method, read_methods
from method_pages.published import Papers, read_papers
from method_pages.published import Row as PublishedRow
from method_pages.recorded import Record, read_records
from ssl_inv.run.explain import recipe_head
from ssl_inv.run.recipe import read_yaml, shipped_recipes

_MADE = "<!-- Made by `make docs` of docstrings, recipes, docs/results and docs/papers.yaml; changes belong there. -->"
_NOT_MEASURED = "No finished run is recorded yet."
_HOW_MADE = """\
## How numbers come here

- Ours: `ssl-inv pretrain RECIPE --trainer.seed N` for several N, then `python docs/record.py RUN ...` with the folders of these runs.
- Of papers: a row in [papers.yaml](../papers.yaml), with its source.
- `make docs` writes these pages."""


def pages() -> dict[str, str]:
    """The text of every page by the name of its file."""
    methods, papers, records, recipes = read_methods(), read_papers(), read_records(), recipes_by_objective()
    found = {
        f"{name}.md": method_page(method, papers, records, recipes.get(name, {})) for name, method in methods.items()
    }
    return {"README.md": overview(methods, papers, records), **found}


def recipes_by_objective() -> dict[str, dict[str, Path]]:
    """The shipped recipes by the objective that they train and by their name."""
    found: dict[str, dict[str, Path]] = {}
    for name, path in shipped_recipes().items():
        found.setdefault(read_yaml(path)["objective"]["name"], {})[name] = path
    return found


def method_page(method: Method, papers: Papers, records: list[Record], recipes: Mapping[str, Path]) -> str:
    """The page of one objective."""
    own = tables.best_known([record for record in records if record.objective == method.name])
    opening = [
        _MADE,
        f"# {method.title}",
        f"**{escaped(sentence(method.idea))}**",
        f"`objective: {{name: {method.name}}}` in a recipe · [code](../../ssl_inv/{method.file}) · [all objectives](README.md)",
        *(
            code(_dedented(one)) if one in method.equations else escaped(_joined(one))
            for one in (method.source, *method.body)
        ),
    ]
    sections = {
        "When to use it": escaped(method.when),
        "Measured here": "\n\n".join(f"### `{one.name}`\n\n{tables.measured(one)}" for one in own) or _NOT_MEASURED,
        "Published": _published(method.name, papers),
        "Recipes": "\n".join(_recipe(name, path) for name, path in recipes.items()),
        "Settings": _settings(method),
    }
    return "\n\n".join([*opening, *(f"## {head}\n\n{text}" for head, text in sections.items() if text)]) + "\n"


def _joined(paragraph: str) -> str:
    return " ".join(paragraph.split())


def _dedented(paragraph: str) -> str:
    lines = paragraph.splitlines()
    indent = min(len(line) - len(line.lstrip()) for line in lines)
    return "\n".join(line[indent:] for line in lines)


def _published(name: str, papers: Papers) -> str:
    groups = tables.by_source(papers.of(name))
    return "\n\n".join(
        f"{sentence(escaped(papers.sources[source]))}.\n\n{tables.published(papers, rows)}"
        for source, rows in groups.items()
    )


def _recipe(name: str, path: Path) -> str:
    head = recipe_head(path)
    lines = [f"- [`{name}`](../../recipes/{name}.yaml): {escaped(head.title)}"]
    for fact, text in head.facts.items():
        lines.append(f"  - {fact}: {f'`{text}`' if fact == 'command' else escaped(text)}")
    lines += [f"  - {escaped(note)}" for note in head.notes]
    return "\n".join(lines)


def _settings(method: Method) -> str:
    defaults = (escaped(f"`{one.default}`") if one.default else "required" for one in method.settings)
    rows = [
        [f"`{one.name}`", default, one.choices, escaped(one.meaning)]
        for one, default in zip(method.settings, defaults, strict=True)
    ]
    return table(["setting", "default", "may be", "meaning"], rows)


def overview(methods: Mapping[str, Method], papers: Papers, records: list[Record]) -> str:
    """The page that compares all objectives."""

    def link(name: str) -> str:
        return f"[{methods[name].title}]({name}.md)" if name in methods else papers.names.get(name, name)

    groups = tables.on_equal_terms(records)
    parts = [
        _MADE,
        "# Objectives",
        _glance(methods, papers, groups[0] if groups else [], link),
        "## Measured here, on equal terms",
        "Runs that share a table had the same data, network, batch, number of steps and evaluation; optimiser, augmentation and views a "
        "step are each recipe's own, and rows with a `teacher_path` need the run of that teacher too. ± is the standard deviation over "
        "seeds, where there are several. R2 is averaged over dimensions, so that a constant prediction scores 0; that of hues over those "
        "of floor and light. What a step costs is from the measurement at the end of this page.",
        *(_compared(group, link) for group in groups),
        *cost_of_steps(link),
        "## Published, side by side",
        "What one source reports of several methods, one row a method; different sources measure by different protocols. R2 per "
        "dimension and pooled R2 are two measures: for the relative rotations of 3DIEBench, a constant prediction scores 0 with one and "
        "0.23 with the other.",
    ]
    for data, comparisons in tables.comparisons(papers).items():
        parts += [f"### {data}", *(_comparison(papers, rows, link) for rows in comparisons)]
    return "\n\n".join([*parts, _HOW_MADE]) + "\n"


def _compared(group: Sequence[Record], link: Callable[[str], str]) -> str:
    """What was measured on equal terms, under these terms."""
    return f"### {sentence(tables.terms(group))}\n\nWith {tables.chosen(group)}.\n\n{tables.side_by_side(group, link)}"


def _comparison(papers: Papers, rows: Sequence[PublishedRow], link: Callable[[str], str]) -> str:
    """What one source reports on one data set: a row for each method, and every row folded away if there are more."""
    main = [row for row in rows if row is papers.main(row.method, row.source, row.data)]
    shown = [f"{sentence(escaped(papers.sources[rows[0].source]))}.", tables.published(papers, main, link)]
    if len(main) < len(rows):
        shown.append(folded(f"All {len(rows)} settings", tables.published(papers, rows, link)))
    return "\n\n".join(shown)


def _glance(methods: Mapping[str, Method], papers: Papers, group: Sequence[Record], link: Callable[[str], str]) -> str:
    """One row an objective: what it does, whether it reads transforms, our numbers of one group of runs, and those of
    papers.
    """
    ours: dict[str, tuple[str, str]] = {}
    for record in sorted(tables.best_known(group), key=lambda one: not tables.is_plain(one)):
        if (numbers := tables.headline(record)) is not None:
            ours.setdefault(record.objective, numbers)
    cited = list(dict.fromkeys(column.source for column in papers.overview))
    rows = []
    for name, method in sorted(methods.items(), key=lambda one: not one[1].reads_transforms):
        found = [(column.measure, papers.main(name, column.source, column.data)) for column in papers.overview]
        theirs = ["" if row is None else row.values.get(measure, "") for measure, row in found]
        rows.append(
            [
                link(name),
                escaped(method.idea),
                "yes" if method.reads_transforms else "no",
                *ours.get(name, ("", "")),
                *theirs,
            ]
        )
    head = [
        "objective",
        "what it does",
        "reads transforms",
        "here: linear top-1, %",
        "here: R2 rotation, per dimension",
    ]
    head += [f"{column.heading} [{cited.index(column.source) + 1}]" for column in papers.overview]
    notes = [
        "*Reads transforms*: the loss uses the record of how each view was made, so the data or the augmentation must have one; "
        "that of a split if one of its parts does."
    ]
    if group:
        notes.append(
            f"*Here*: {tables.terms(group)}; rotation on the equivariant part where there is one, else on all features. "
            "Objectives have the settings of their recipe; what others reach is in the table below."
        )
    notes += [f"[{number}] {escaped(papers.sources[source])}." for number, source in enumerate(cited, 1)]
    return table(head, rows, range(3, len(head))) + "\n\n" + "\n".join(f"- {note}" for note in notes)
