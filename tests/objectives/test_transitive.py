"""Claims about transitive invariance: when its teacher makes a graph, how it sees images, and what is refused."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from small import transformer

from ssl_inv.data.source import Images, Indices, Source
from ssl_inv.memories.gallery import Gallery
from ssl_inv.memories.search import EdgeRules, find_neighbours
from ssl_inv.nn.backbones import Backbone, make_backbone
from ssl_inv.objectives.transitive import TransitiveInvariance
from ssl_inv.run.exports.export import Preprocessing, export_timm
from ssl_inv.run.recipe import RecipeError, resolve
from ssl_inv.run.requirements import require_files
from ssl_inv.transforms import Transform
from ssl_inv.transforms.keyed_random import uniform


def edges(neighbours: np.ndarray) -> set[tuple[int, int]]:
    return {(here, int(there)) for here, row in enumerate(neighbours) for there in row if there >= 0}


class Blocks(Source):
    """Ten objects of one colour each in two views, with noise in every fourth pixel."""

    groups: dict[str, Any] = {}
    labels = None
    image_size = 12
    view_counts = np.full(10, 2, dtype=np.int64)

    def load(self, objects: Indices, views: Indices) -> Images:
        noise = uniform(objects, views, count=3 * 144, high=60).reshape(-1, 3, 12, 12)
        colour = 60 + 80 * np.stack((objects % 2, objects % 3 == 0, objects % 5 == 0), axis=1)[:, :, None, None]
        pixels = torch.from_numpy((noise + colour).astype(np.uint8))
        return Images(pixels, Transform.empty(), torch.ones(len(objects), dtype=torch.bool))


def gallery() -> Gallery:
    return Gallery(Blocks(), lambda pixels: 2 * pixels - 1, "cpu", batch_size=7)


def network() -> Backbone:
    torch.manual_seed(0)
    return make_backbone(name="test_resnet")


def learner(backbone: Backbone, **settings: Any) -> TransitiveInvariance:
    made = TransitiveInvariance(backbone.features, {}, projector=[8], neighbours=3, **settings)
    made.adopt(backbone)
    made.allocate(10, 20)
    return made.train()


@pytest.mark.parametrize(("first", "every", "built"), [(0, 1, [0, 1, 2, 3, 4, 5]), (1, 2, [1, 3, 5]), (2, 3, [2, 5])])
def test_the_moving_average_is_asked_when_it_shall(first, every, built):
    backbone = network()
    made = learner(backbone, first_graph=first, rebuild_every=every)
    found = []
    for epoch in range(6):
        made.graph.neighbours.fill_(-2)
        made.between_epochs(backbone, epoch, gallery())
        if made.graph.neighbours[0, 0] != -2:
            found.append(epoch)
    assert found == built
    assert made.diagnostics(None)["edges"] > 0


def test_until_there_is_a_graph_pairs_are_of_one_object():
    backbone = network()
    made = learner(backbone, first_graph=1)
    assert made.links(0) is None
    made.between_epochs(backbone, 0, gallery())
    links = made.links(0)
    assert links is not None
    assert np.array_equal(links.partners(np.arange(10), np.ones(10, dtype=np.int64), 0)[0], np.arange(10))
    made.between_epochs(backbone, 1, gallery())
    links = made.links(0)
    assert links is not None
    assert not np.array_equal(links.partners(np.arange(10), np.ones(10, dtype=np.int64), 1)[0], np.arange(10))


@pytest.mark.parametrize("network", [network, transformer])
def test_the_moving_average_is_one_of_statistics_too_and_learns_nothing(network):
    backbone = network()
    made = learner(backbone, teacher_momentum=0.9)
    before = {name: one.clone() for name, one in made.teacher.network.state_dict().items()}  # type: ignore[union-attr]
    with torch.no_grad():
        for one in (*backbone.parameters(), *(one for one in backbone.buffers() if one.is_floating_point())):
            one.add_(1.0)
    made.after_step(backbone, 1, 10)
    for name, one in made.teacher.network.state_dict().items():  # type: ignore[union-attr]
        if one.is_floating_point():
            torch.testing.assert_close(one, before[name] + 0.1, msg=name)
    assert not any(one.requires_grad for one in made.teacher.parameters())  # type: ignore[union-attr]


def test_pairs_of_views_alone_cost_no_teacher_and_no_graph():
    backbone = network()
    made = learner(backbone, weights={"intra": 1})
    made.between_epochs(backbone, 5, gallery())
    assert made.teacher is None
    assert (made.graph.neighbours == -1).all()
    assert made.diagnostics(None) == {}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported network, trained on images of 16 pixels with another mean."""
    folder = tmp_path_factory.mktemp("teacher") / "export"
    torch.manual_seed(1)
    model = timm.create_model("test_resnet", num_classes=0)
    preprocessing = Preprocessing((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), 16)
    return export_timm(model, "test_resnet", folder, preprocessing)


def test_a_frozen_teacher_sees_images_as_in_its_own_training_and_is_asked_once(exported):
    backbone = network()
    made = learner(backbone, teacher_path=str(exported), first_graph=4)
    assert not any("teacher" in name or "frozen" in name for name in made.state_dict())
    made.between_epochs(backbone, 0, gallery())
    model = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
    objects, views = np.repeat(np.arange(10), 2), np.tile(np.arange(2), 10)
    pixels = Blocks().load(objects, views).pixels.float() / 255
    pixels = F.interpolate(pixels, (16, 16), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)))
    with torch.no_grad():
        features = model((pixels - mean) / std).numpy()
    assert edges(made.graph.neighbours.numpy()) == edges(find_neighbours(features, objects, EdgeRules(3)))
    made.graph.neighbours.fill_(-1)
    made.between_epochs(backbone, 4, gallery())
    assert (made.graph.neighbours == -1).all()


def test_weights_in_a_file_are_a_teacher_with_the_name_of_their_network(exported):
    backbone = network()
    file = exported / "model.safetensors"
    made = learner(backbone, teacher_path=str(file), teacher_architecture="test_resnet")
    made.between_epochs(backbone, 0, gallery())
    assert made.diagnostics(None)["edges"] > 0


def test_a_teacher_that_is_gone_is_said_before_anything_is_read_and_hinders_no_judgement():
    objective = {"name": "transitive", "teacher_path": "nowhere"}
    recipe = resolve({"objective": objective, "data": {"name": "rendered"}, "trainer": {"steps": 1}})
    with pytest.raises(RecipeError, match=r"^objective\.teacher_path: no such file or folder: 'nowhere'$"):
        require_files(recipe)
    backbone = network()
    made = learner(backbone, teacher_path="nowhere")
    assert "all" in made.representations(backbone)(torch.zeros(2, 3, 12, 12))
    with pytest.raises(FileNotFoundError, match="teacher_path: 'nowhere' does not exist"):
        made.between_epochs(backbone, 0, gallery())


@pytest.mark.parametrize(
    ("path", "architecture", "sentence"),
    [
        ("{file}", None, "teacher_architecture: must name the timm network whose weights '{file}' holds"),
        ("{file}", "resnet81", "no model called 'resnet81'; did you mean"),
        ("{file}", "resnet18", "teacher_path: '{file}' cannot be loaded: RuntimeError: "),
        ("{run}", None, "'{run}' is no exported network, it has no config.json; did you mean '{run}/export'?"),
    ],
)
def test_a_teacher_that_cannot_be_loaded_is_named_in_one_line(path, architecture, sentence, exported):
    places = {"file": exported / "model.safetensors", "run": exported.parent}
    message = re.escape(sentence.format(**places))
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        learner(network(), teacher_path=path.format(**places), teacher_architecture=architecture)
    assert "\n" not in str(caught.value)
