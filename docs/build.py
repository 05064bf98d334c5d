"""Write docs/objectives.md, which compares all objectives, a page on each objective into build/docs, docs/protocols.md,
docs/exam_results.md (the encoders in the exam), the tables in README.md and other pages that stand between `made by
make docs` and `end`, and the scores at the heads of recipes.

    make docs

The sources are the docstrings and settings of the objectives, the recipes, docs/results, docs/step-cost.json,
docs/loading.json, docs/exam and docs/papers.yaml; those of docs/protocols.md are the protocols. All but the pages
in build/docs are kept in the repository.
"""

import ast
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import blocks
import exam_cells
import exam_tables
import one_budget
import protocol_page
import recipe_heads
import tables
from record import Record, read_records, read_tables
from tables import Link, Papers, escaped, folded, sentence, table

import ssl_inv
from ssl_inv.catalogue import OBJECTIVES, Member, suggest
from ssl_inv.run.explain import argument_sentences, opening_and_sections, recipe_head
from ssl_inv.run.plain_yaml import dump_value
from ssl_inv.run.recipe import read_yaml, shipped_recipes
from ssl_inv.run.schema import REQUIRED, Schema, describe_type, schema_of

REPOSITORY = Path(__file__).parent.parent
OVERVIEW, SITE = "docs/objectives.md", "build/docs"
PROTOCOLS, EXAM = "docs/protocols.md", "docs/exam_results.md"
_MADE = "<!-- Made by `make docs` from docstrings, recipes, docs/results and docs/papers.yaml. Change those. -->"
_PROTOCOLS_MADE = "<!-- Made by `make docs` from the classes in ssl_inv/evaluation/protocols. Change those. -->"
_LEAST_METHODS = 3  # of one source and data set, for a table of published numbers


@dataclass(frozen=True)
class Method:
    """An objective: its name in recipes and in prose, the line that opens its module, and the module's path in the
    repository; of its docstring the first paragraph, which names the paper, the further paragraphs (equations are
    indented), and when to use it; its settings; and whether its loss reads how views were made.
    """

    name: str
    title: str
    idea: str
    file: str
    source: str
    body: tuple[str, ...]
    when: str
    schema: Schema
    reads_transforms: bool

    @property
    def equations(self) -> list[str]:
        """The paragraphs that are equations."""
        return [one for one in self.body if one.startswith(" ")]


def read_method(member: Member) -> Method:
    """An objective as its source describes it.

    Raises:
        ValueError: if the module's docstring does not open with the objective's name in prose and a colon.
    """
    inside, tree = _inside(member.module), _tree(member.module)
    headline = " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())
    title, colon, idea = headline.partition(": ")
    if not colon:
        raise ValueError(f"{inside}: the module's docstring must open with 'Name: what it does', got {headline!r}")
    schema, nodes = schema_of(member), list(ast.walk(tree))
    (source, *body), sections = opening_and_sections(schema.doc)
    # Shared parts of objectives are no members themselves.
    members = {one.module for one in OBJECTIVES.members.values()}
    shared = [
        one.module
        for one in nodes
        if isinstance(one, ast.ImportFrom) and (one.module or "").startswith("ssl_inv.objectives.")
    ]
    parts = [_nodes(one) for one in shared if one and one not in members and not one.endswith(".base")]
    reads = any(map(_asks_for_transforms, (nodes, *parts)))
    when = " ".join(sections.get("When", "").split())
    return Method(member.name, title, idea, f"ssl_inv/{inside.as_posix()}", source, tuple(body), when, schema, reads)


def _inside(module: str) -> Path:
    return Path(*module.split(".")[1:]).with_suffix(".py")


def _tree(module: str) -> ast.Module:
    return ast.parse((Path(ssl_inv.__file__).parent / _inside(module)).read_text(encoding="utf-8"))


def _nodes(module: str) -> list[ast.AST]:
    return list(ast.walk(_tree(module)))


def _asks_for_transforms(nodes: Sequence[ast.AST]) -> bool:
    """Whether some code asks a view for its transform, views for their actions, or for a path: what an objective must
    do to learn from transforms.
    """
    asked = {ast.unparse(one) for one in nodes if isinstance(one, ast.Attribute)}
    imports = [
        one for one in nodes if isinstance(one, ast.ImportFrom) and (one.module or "").startswith("ssl_inv.views")
    ]
    plans = {name.name for one in imports for name in one.names}
    paths = plans & {"Path", "TransformPath"}
    return bool(paths) or any(one.endswith((".transform", "views.actions")) for one in asked)


def read_methods() -> dict[str, Method]:
    """Every objective of the catalogue by name."""
    return {name: read_method(member) for name, member in OBJECTIVES.members.items()}


def recipes_by_objective() -> dict[str, dict[str, Path]]:
    """The shipped recipes, by the objective that they train and by their name."""
    found: dict[str, dict[str, Path]] = {}
    for name, path in shipped_recipes().items():
        found.setdefault(read_yaml(path)["objective"]["name"], {})[name] = path
    return found


def pages() -> dict[str, str]:
    """The text of every page, by its path in the repository."""
    methods, papers, records, recipes = read_methods(), tables.read_papers(), read_records(), recipes_by_objective()

    def linked(to: dict[str, str]) -> Link:
        return lambda name: f"[{methods[name].title}]({to[name]})" if name in to else papers.names.get(name, name)

    code = linked({name: f"../{method.file}" for name, method in methods.items()})
    own = linked({name: f"{name}.md" for name in methods})
    return {
        **{place: with_blocks(place, blocks.blocks(records, read_tables())) for place in blocks.PAGES},
        **recipe_heads.made(shipped_recipes(), records),
        **one_budget.charts(read_tables()),
        EXAM: exam_tables.page(exam_cells.read()),
        PROTOCOLS: protocol_page.page(_PROTOCOLS_MADE),
        OVERVIEW: overview(methods, papers, records, code, ".."),
        f"{SITE}/README.md": overview(methods, papers, records, own, "../.."),
        **{
            f"{SITE}/{name}.md": method_page(method, papers, records, recipes.get(name, {}))
            for name, method in methods.items()
        },
    }


_BLOCK = re.compile(r"<!-- made by `make docs` from (.+?) -->\n(.*?)<!-- end -->\n", re.DOTALL)


def with_blocks(place: str, blocks: Mapping[str, Callable[[], str]]) -> str:
    """A page with the text of each of its blocks, which stand between `<!-- made by `make docs` from SOURCE -->` and
    `<!-- end -->`.

    Raises:
        ValueError: if a block begins with another source, or does not end.
    """
    text = (REPOSITORY / place).read_text(encoding="utf-8")
    begun = text.count("<!-- made by `make docs` from ")
    if (whole := len(_BLOCK.findall(text))) != begun:
        raise ValueError(f"{place}: {begun} blocks begin and {whole} end; each needs its line `<!-- end -->`")

    def made(found: re.Match[str]) -> str:
        if found[1] not in blocks:
            raise ValueError(f"{place}: no block is made from {found[1]!r}; {suggest(found[1], blocks)}")
        content = blocks[found[1]]()
        return f"<!-- made by `make docs` from {found[1]} -->\n{content}{chr(10) * bool(content)}<!-- end -->\n"

    return _BLOCK.sub(made, text)


def method_page(method: Method, papers: Papers, records: list[Record], recipes: dict[str, Path]) -> str:
    """The page of one objective, in `SITE`."""
    places = [f"[code](../../{method.file})", "[all objectives](README.md)"]
    opening = [
        _MADE,
        f"# {method.title}",
        f"**{escaped(sentence(method.idea))}**",
        " · ".join([f"`objective: {{name: {method.name}}}` in a recipe", *places]),
    ]
    for one in (method.source, *method.body):
        if one in method.equations:
            opening.append(f"```\n{textwrap.dedent(one)}\n```")
        else:
            opening.append(escaped(" ".join(one.split())))
    own = tables.best_known(record for record in records if record.objective == method.name)
    reported = tables.by_source(row for row in papers.rows if row["method"] == method.name)
    sections = {
        "When to use it": escaped(method.when),
        "Measured here": "\n\n".join(f"### `{one.name}`\n\n{tables.measured(one)}" for one in own)
        or "No finished run is recorded yet.",
        "Published": "\n\n".join(
            f"{sentence(escaped(papers.sources[source]))}.\n\n{tables.published(papers, rows)}"
            for source, rows in reported.items()
        ),
        "Recipes": "\n".join(_recipe(name, path) for name, path in recipes.items()),
        "Settings": _settings(method),
    }
    return "\n\n".join([*opening, *(f"## {head}\n\n{text}" for head, text in sections.items() if text)]) + "\n"


def _recipe(name: str, path: Path) -> str:
    head = recipe_head(path)
    lines = [f"- [`{name}`](../../recipes/{name}.yaml): {escaped(head.title)}"]
    lines += [f"  - {fact}: {f'`{text}`' if fact == 'command' else escaped(text)}" for fact, text in head.facts.items()]
    return "\n".join([*lines, *(f"  - {escaped(note)}" for note in head.notes)])


def _settings(method: Method) -> str:
    meanings = argument_sentences(method.schema.doc)
    rows = []
    for name, setting in method.schema.settings.items():
        default = "required" if setting.default is REQUIRED else escaped(f"`{dump_value(setting.default)}`")
        may_be = f"{setting.kind}, with its `name` and settings" if setting.kind else describe_type(setting.type)
        rows.append([f"`{name}`", default, escaped(may_be), escaped(meanings.get(name, ""))])
    return table(["setting", "default", "may be", "meaning"], rows)


def overview(methods: dict[str, Method], papers: Papers, records: list[Record], link: Link, root: str) -> str:
    """The page that compares all objectives; `root` leads from its folder to the repository."""
    groups = tables.on_equal_terms(records)
    parts = [
        _MADE,
        "# Objectives",
        "`make docs` writes a page on each objective into build/docs: equation, use, results, recipes and settings. "
        "`ssl-inv recipes RECIPE --explain` prints the settings.",
        _glance(methods, papers, groups[0], link),
        "## Measured here, on equal terms",
        "All runs of one table had the same data, network, batch size, number of steps and evaluation. Optimiser, "
        "augmentation and number of views are the recipe's own, so a step has as many objects for all, and not as many "
        "images: on solids 128 for most, 192 for VICReg on trajectories and `frontier-rendered`, 256 for seq-JEPA, "
        "RotNet and reconstruction, 320 for the split of OBoW and SIE, 384 for E-SSL; compare rows of equal images. "
        "Rows with a `teacher_path` also need the run of that teacher. ± is the standard deviation over seeds, where "
        "there are several. R2 is averaged over dimensions, so a constant prediction scores 0; R2 of hues is the mean "
        'of floor and light. Time and memory of a step are from the measurement of "What a step costs".',
        *(
            f"### {sentence(tables.terms(group))}\n\nWith {tables.chosen(group)}.\n\n"
            f"{tables.side_by_side(group, link, root)}"
            for group in groups
        ),
        *_costs(methods, link),
        "## Published, side by side",
        "The numbers of one source for several methods, one row per method that we chose, with all settings folded "
        "below; seq-JEPA's row is of single views, as those beside it. Different sources measure by different "
        "protocols. R2 per dimension and pooled R2 are two measures: for relative rotations of 3DIEBench, a constant "
        "prediction scores 0 with the first and 0.23 with the second.",
    ]
    for data in dict.fromkeys(row["data"] for row in papers.rows):
        by_source = tables.by_source(row for row in papers.rows if row["data"] == data).values()
        compared = [rows for rows in by_source if len({row["method"] for row in rows}) >= _LEAST_METHODS]
        parts += [f"### {data}", *(_side_by_side(papers, rows, link) for rows in compared)] if compared else []
    return "\n\n".join([*parts, _HOW_MADE.format(root=root)]) + "\n"


_HOW_MADE = """\
## How numbers come here

- Ours: `ssl-inv pretrain RECIPE --trainer.seed N` for several N, then `python docs/record.py RUN ...`.
- Of papers: a row in [papers.yaml]({root}/docs/papers.yaml), with its source.
- `make docs` writes this page."""


def _side_by_side(papers: Papers, rows: Sequence[tables.Row], link: Link) -> str:
    """The main row of each method, and all rows folded away if there are more."""
    main = [row for row in rows if row is papers.main(row["method"], row["source"], row["data"])]
    shown = [f"{sentence(escaped(papers.sources[rows[0]['source']]))}.", tables.published(papers, main, link)]
    if len(main) < len(rows):
        shown.append(folded(f"All {len(rows)} settings", tables.published(papers, rows, link)))
    return "\n\n".join(shown)


def _glance(methods: dict[str, Method], papers: Papers, group: Sequence[Record], link: Link) -> str:
    """One row per objective: what it does, whether it reads transforms, our numbers, and the numbers of papers."""
    ours: dict[str, tuple[str, str]] = {}
    # The recipe with the name of the objective and the data stands for the objective, not its variants.
    plain_first = sorted(
        tables.best_known(group), key=lambda one: one.name != f"{one.objective}-{one.settings['data']['name']}"
    )
    for record in plain_first:
        if any(numbers := tables.headline(record)):
            ours.setdefault(record.objective, numbers)
    budgets = read_tables().get("one-budget", {"runs": {}})
    small = one_budget.of_objectives(budgets, "solids-small")
    cited = list(dict.fromkeys(column["source"] for column in papers.overview))
    rows = []
    for name, method in sorted(methods.items(), key=lambda one: not one[1].reads_transforms):
        main = [(column["measure"], papers.main(name, column["source"], column["data"])) for column in papers.overview]
        theirs = ["" if row is None else row.get(measure, "") for measure, row in main]
        reads = "yes" if method.reads_transforms else "no"
        rows.append(
            [link(name), escaped(method.idea), reads, *ours.get(name, ("", "")), *small.get(name, ("", "")), *theirs]
        )
    head = ["objective", "what it does", "reads transforms"]
    head += ["here: linear top-1, %", "here: R2 rotation, per dimension"]
    head += ["small budget: linear top-1, %", "small budget: R2 rotation, per dimension"]
    head += [f"{column['heading']} [{cited.index(column['source']) + 1}]" for column in papers.overview]
    notes = [
        "*Reads transforms*: the loss uses the record of how each view was made, so data or augmentation must have "
        "one. A split reads transforms if one of its parts does; of lightly's losses, those that compare places do.",
        f"*Here*: {tables.terms(group)}; rotation on the equivariant part if there is one, else on all features. "
        "Objectives have the settings of their recipe; the table below has variants.",
        "*Small budget*: 1,000 solids of 32 pixels, a resnet18 of a quarter of the width, 300 steps of 64, in "
        "results.md with all variants, their seeds and images a step; rotation on all features. *Against invariance* "
        "is the row `frontier` there, *Split* `split-simclr-augself`, *Supervised* `supervised-classes`; SER is around "
        "MoCo v3, FINO and Gram anchoring around VICReg. CAPI and Gram anchoring have a transformer of six blocks, to "
        "be compared with VICReg on it there, and Conv-JEPA's network a stem of stride 1.",
        *(f"[{number}] {escaped(papers.sources[source])}." for number, source in enumerate(cited, 1)),
    ]
    return table(head, rows, range(3, len(head))) + "\n\n" + "\n".join(f"- {note}" for note in notes)


def _costs(methods: dict[str, Method], link: Link) -> list[str]:
    """The section on what a step costs."""
    content = tables.step_costs()
    costs, rounds = content["costs"], content["rounds"]
    most = max(cost["time_ratio"] for cost in costs)
    command = " ".join(["python benchmarks/step_cost.py", *content["overrides"], f"--rounds {rounds}"])
    explained = (
        "A whole training step on ready views, divided by forward, backward and update of the same networks on as many "
        "images. Losses, queues, clusters and moving averages make the difference. Processor time and peak allocation "
        f"on {content['device']}, {content['threads']} thread, the median of {rounds} alternating rounds: `{command}`. "
        f"The largest of the {len(costs)} ratios of time is {most:.2f}. Each is the median of the rounds' ratios, "
        "which differs from the ratio of the median times; a tenth is noise: some ratios are below 1."
    )
    if lacking := sorted(methods.keys() - {cost["objective"] for cost in costs}):
        explained += f" Not measured: {', '.join(map(link, lacking))}."
    return ["## What a step costs", explained, folded(f"All {len(costs)} objectives", tables.cost_table(link))]


def main() -> int:
    """Write every page, and remove the pages of objectives that are gone."""
    try:
        made = pages()
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    site = REPOSITORY / SITE
    site.mkdir(parents=True, exist_ok=True)
    for path in site.glob("*.md"):
        path.unlink()
    for place, text in made.items():
        (REPOSITORY / place).write_text(text, encoding="utf-8")
    kept = [place for place in made if not place.startswith((SITE, "recipes/"))]
    in_site = sum(place.startswith(SITE) for place in made)
    heads = len(made) - len(kept) - in_site
    sys.stdout.write(f"{', '.join(kept)}, the scores of {heads} recipes, and {in_site} pages in {SITE}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
