"""temp"""
from ssl_inv.data.base import Data, Subset, split_objects
from ssl_inv.registry import register


@register("rendered")
def rendered(
    *,
    classes: int = 55,
    objects: int = 5500,
    views: int = 50,
    size: int = 64,
    angle_range: float = 90.0,
    hue_range: float = 1.0,
    instance_jitter: float = 0.15,
    primitives: int = 5,
    validation_share: float = 0.2,
    seed: int = 0,
) -> Data:
    """Procedural solids."""
    from ssl_inv.data.rendered import RenderedSolids

    source = RenderedSolids(classes, objects, views, size, angle_range, hue_range, primitives, instance_jitter, seed=seed)
    train, validation = split_objects(objects, validation_share, seed)
    return Data(Subset(source, train), Subset(source, validation))
