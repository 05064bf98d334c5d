"""The model card of an exported network: README.md, with the head that model hubs read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_inv.catalogue import RecipeError
from ssl_inv.data.reading import Reading
from ssl_inv.evaluation.results import Comparison, Result
from ssl_inv.nn.backbones import Backbone, registering_module
from ssl_inv.nn.stems import SUFFIXES
from ssl_inv.run.continuing import early_end, went_on
from ssl_inv.run.exports.export import Preprocessing
from ssl_inv.run.exports.parts import Parts
from ssl_inv.run.folder import RunFolder
from ssl_inv.run.pages.report import summary
from ssl_inv.run.plain_yaml import dump_yaml, parse_yaml
from ssl_inv.run.recipe import Recipe
from ssl_inv.run.results_file import RESULTS, checked_rows
from ssl_inv.run.tables import Table, shown

PLACE = "FOLDER"
"""What a card calls the place that its network is loaded from, until it is known."""

UNKNOWN = "unknown"
"""The licence of weights whose owner has named none."""

_MEANINGS = {
    "invariant": "what is in an image, however it was seen",
    "equivariant": "how it was seen: these columns move as the image is transformed",
}
_VERSIONS = ("ssl-inv", "torch", "timm", "commit")


@dataclass(frozen=True)
class Trained:
    """What a card says of a network beside its recipe.

    Attributes:
        recipe: every setting.
        backbone: the network.
        preprocessing: of its input.
        parts: the columns of the parts of its features.
        told: the parameters of the views that the objective was told.
        step: the last step of its training.
        extent: objects and images of the training data.
        licence: of the weights, as hubs abbreviate it.
    """

    recipe: Recipe
    backbone: Backbone
    preprocessing: Preprocessing
    parts: Parts
    told: tuple[str, ...]
    step: int
    extent: tuple[int, int]
    licence: str = UNKNOWN


def model_card(trained: Trained, folder: RunFolder) -> str:
    """The card of a run's network, as Markdown.

    The numbers are those of results.json, if the run is complete and this is its network at the end. Of paths, a card
    has only the last part.
    """
    record = folder.record()
    head = {
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction",
        "license": trained.licence,
        "tags": _tags(trained),
    }
    sections = {
        "Load": _loading(trained),
        "Parts of the features": _parts(trained),
        "Training": _training(trained, record),
        "Numbers": _numbers(read_results(folder) if record.get("state") == "complete" and folder.at_end else []),
        "Licence": licence_sentence(trained.licence),
    }
    body = "".join(f"\n## {title}\n\n{text}\n" for title, text in sections.items() if text)
    name = escaped(folder.path.resolve().name)
    return f"---\n{dump_yaml(head)}---\n\n# {name}\n\n{_opening(trained)}\n{body}"


def escaped(text: str) -> str:
    """A text on one line without any meaning in Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|~&$:@^=])", r"\\\1", " ".join(str(text).split()))


def licence_sentence(licence: str) -> str:
    """What a card says of the licence of its weights."""
    if licence == UNKNOWN:
        return "The owner of these weights has not named a licence."
    return f"The weights are under the licence `{licence}`."


def addressed(card: str, repository: str, licence: str | None) -> str:
    """A card for a hub: it loads from a repository there instead of a folder, and names a licence if one is given."""
    card = card.replace(f'"local-dir:{PLACE}"', f'"hf-hub:{repository}"')
    card = card.replace(f'from_pretrained("{PLACE}")', f'from_pretrained("{repository}")')
    if licence is not None:
        card = re.sub(r"\A(---\n(?:.*\n)*?)license: .*\n", rf"\g<1>license: {licence}\n", card)
        card = re.sub(r"(^## Licence\n\n).*$", rf"\g<1>{licence_sentence(licence)}", card, flags=re.MULTILINE)
    return card


def read_results(folder: RunFolder) -> list[Comparison]:
    """The rows of results.json; none if a run was not judged."""

    def result(row: Mapping[str, Any] | None) -> Result | None:
        return None if row is None else Result(**row)

    path = folder.path / RESULTS
    try:
        return [
            Comparison(Result(**row["trained"]), result(row["untrained"]), result(row["shuffled"]), row["reference"])
            for row in checked_rows(path)
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{path}: is not what a run writes ({type(error).__name__}: {error})") from None


def _tags(trained: Trained) -> list[str]:
    objective = trained.recipe.objective.name
    own = [] if "." in objective else [objective]
    return ["timm", "transformers", "ssl-inv", "self-supervised-learning", *list(trained.parts), *own]


def _opening(trained: Trained) -> str:
    backbone, side = trained.backbone, trained.preprocessing.input_size
    parameters = sum(one.numel() for one in backbone.parameters()) / 1e6
    channels = backbone.in_channels
    of_channels = "" if channels == 3 else f" and {channels} channel{'s' if channels > 1 else ''}"
    return (
        f"An image encoder that was pretrained without labels with `ssl-inv`: {escaped(backbone.architecture)} "
        f"({parameters:.1f} M parameters) gives {backbone.features} features of an image of {side} x {side} "
        f"pixels{of_channels}. Objective: {escaped(trained.recipe.objective.name)}. Data: {_data_name(trained.recipe)}."
    )


def _data_name(recipe: Recipe) -> str:
    path = recipe.data.settings.get("path")
    names = [Path(one).name for one in ([path] if isinstance(path, str) else path or ())]
    return escaped(recipe.data.name) + (f" ({escaped(', '.join(names))})" if names else "")


def _loading_of_channels(trained: Trained, register: str, needs: str) -> str:
    """How to load an encoder of images that no library opens as colours."""
    channels, side = trained.backbone.in_channels, trained.preprocessing.input_size
    return f"""\
`{PLACE}` is the folder of this file.{needs}

```python
import timm
import torch
{register}
encoder = timm.create_model("local-dir:{PLACE}", pretrained=True).eval()
mean, std = (torch.tensor(encoder.pretrained_cfg[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
images = torch.rand(1, {channels}, {side}, {side})  # yours, from 0 to 1 as in training
features = encoder((images - mean) / std)  # (1, {trained.backbone.features})
```

`transformers.AutoModel.from_pretrained("{PLACE}")` takes the same input as `pixel_values`.
`ssl_inv.load("{PLACE}")` takes files, which it reads as in training: {_how_read(trained.preprocessing.reading)}."""


def _how_read(reading: Reading) -> str:
    return ", ".join(f"`{name}: {value}`" for name, value in reading.settings().items())


def _loading(trained: Trained) -> str:
    small = any(suffix and trained.backbone.architecture.endswith(suffix) for suffix in SUFFIXES.values())
    module = "ssl_inv.backbones" if small else registering_module(trained.backbone.architecture)
    register = f"import {module}  # registers this network with timm\n" if module else ""
    needs = " Its stem is not timm's, so the package `ssl-inv` must be installed." if small else ""
    if module and not small:
        needs = f" It is no network of timm's own: the module `{module}` of its owner must be there."
    if trained.backbone.in_channels != 3:
        return _loading_of_channels(trained, register, needs)
    return f"""\
`{PLACE}` is the folder of this file.{needs}

```python
from PIL import Image

image = Image.open("photo.jpg").convert("RGB")
```

With timm:

```python
import timm
{register}
encoder = timm.create_model("local-dir:{PLACE}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(encoder))
features = encoder(transform(image).unsqueeze(0))  # (1, {trained.backbone.features})
```

With transformers:

```python
from transformers import AutoImageProcessor, AutoModel
{register}
processor = AutoImageProcessor.from_pretrained("{PLACE}")
model = AutoModel.from_pretrained("{PLACE}")
features = model(**processor(image, return_tensors="pt")).pooler_output  # the same features
```

With ssl-inv, `ssl-inv evaluate {PLACE} --data PHOTOS` measures it on other images, and `ssl-inv embed` writes features.
Feature maps and tokens are timm's: `timm.create_model(..., features_only=True)`, `encoder.forward_features(...)`."""


def _parts(trained: Trained) -> str:
    if not trained.parts:
        return ""
    rows = [
        {"part": name, "columns": f"{first}:{end}", "holds": _MEANINGS.get(name, "")}
        for name, (first, end) in trained.parts.items()
    ]
    cuts = "\n".join(f"{name} = features[:, {first}:{end}]" for name, (first, end) in trained.parts.items())
    told = ", ".join(f"`{one}`" for one in trained.told)
    what = f"\nThe objective was told these parameters of the views: {told}.\n" if told else ""
    return f"{Table(rows).to_markdown()}{what}\n```python\n{cuts}\n```"


def _training(trained: Trained, record: Mapping[str, Any]) -> str:
    recipe, (objects, images) = trained.recipe, trained.extent
    # Runs that did not end, or ended before counts were kept, tell those of the checkpoint alone.
    counts = record.get("counts", {"training": {"objects": objects, "images": images}})
    facts: dict[str, str] = {
        "objective": escaped(recipe.objective.name),
        "data": _data_name(recipe),
        **{f"{split} data": f"{n['objects']:,} objects, {n['images']:,} images" for split, n in counts.items()},
        "augmentation": escaped(recipe.augmentation.name),
        "steps": f"{trained.step:,} of {recipe.trainer.batch_size:,} samples",
        "start": _start(record),
        "continued": "; ".join(escaped(_last_parts(one)) for one in went_on(record)),
        "end": escaped(early_end(record)),
        "optimiser": escaped(recipe.optimizer.get("name", "")),
        "seed": str(recipe.trainer.seed),
        "trained": record.get("began", "")[:10],
        **{name: f"`{record['versions'][name]}`" for name in _VERSIONS if name in record.get("versions", {})},
    }
    if "uncommitted" in record.get("versions", {}):
        facts["commit"] = f"{facts.get('commit', '')} with changes"
    if record.get("warnings"):
        facts["warnings"] = "; ".join(escaped(_last_parts(one)) for one in record["warnings"])
    # Cells are Markdown already, so `Table` may not escape them again.
    lines = "".join(f"| {name} | {value} |\n" for name, value in facts.items() if value)
    yaml = dump_yaml(_without_places(recipe.sections()))
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", yaml)), default=0))
    return (
        f"|  |  |\n| --- | --- |\n{lines}\n<details><summary>All settings of the recipe</summary>\n\n"
        f"{fence}yaml\n{yaml}{fence}\n\n</details>"
    )


def _start(record: Mapping[str, Any]) -> str:
    """The weights that a network began with: their licence may bind the new ones."""
    if not (start := record.get("start")):
        return ""
    source = str(start["source"])
    named = source if source.startswith(("timm/", "hf-hub:")) else Path(source).name
    return f"weights of {escaped(named)}, SHA-256 `{start['sha256'][:16]}`"


def _without_places(value: Any) -> Any:
    """A copy of nested settings in which paths have only their last part: a card is published, a disk is not."""
    if isinstance(value, Mapping):
        return {key: _without_places(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_places(one) for one in value]
    return Path(value).name if isinstance(value, str) and re.search(r"[/\\]", value) else value


def _last_parts(text: str) -> str:
    """A sentence in which paths have only their last part."""
    return re.sub(r"(?<=['\"])[^'\"\n]*[/\\](?=[^/\\'\"])|[^\s'\"]*[/\\](?=[^\s/\\])", "", text)


def _numbers(table: list[Comparison]) -> str:
    measured = [row for row in table if row.trained.value is not None]
    if not measured:
        return "This network was not evaluated."
    top = summary(measured)
    rest = [row for row in measured if row not in top]
    words = (
        "Measured on the validation data of the run, with standard errors over objects. *untrained* is the same "
        "network with random weights, *shuffled* the same measurement with shuffled training targets: what is not "
        "better than both was not learned."
    )
    folded = ""
    if rest:
        folded = f"\n<details><summary>{len(rest)} further measurements</summary>\n\n{_rows(rest)}\n</details>"
    return f"{words}\n\n{_rows(top or rest)}{folded if top else ''}".rstrip()


def _rows(table: list[Comparison]) -> str:
    def cell(result: Result | None) -> str:
        if result is None or result.value is None:
            return ""
        return shown(result.value) + ("" if result.spread is None else f" ± {shown(result.spread)}")

    rows = [
        {
            "measure": f"`{row.trained.name}`",
            "part": row.trained.part,
            "trained": cell(row.trained),
            "untrained": cell(row.untrained),
            "shuffled": cell(row.shuffled),
            "published": shown(row.reference),
        }
        for row in table
    ]
    kept = [name for name in rows[0] if any(row[name] for row in rows)]
    return Table(rows, kept).to_markdown()


def front_matter(card: str) -> dict[str, Any]:
    """The head of a card, which hubs read; empty if there is none.

    Raises:
        YAMLError: if the head is no YAML.
    """
    found = re.match(r"---\n(.*?\n)---\n", card, re.DOTALL)
    head = parse_yaml(found.group(1)) if found else {}
    return head if isinstance(head, dict) else {}
