"""torchvision's classification networks without their classifier, by name."""

from __future__ import annotations

from torch import nn

from isdh.errors import unknown

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def torchvision_backbone(name: str) -> tuple[nn.Module, int]:
    """A torchvision classification model without its last linear layer.

    Args:
        name: e.g. "mobilenet_v2", "resnet18", "alexnet".

    Returns:
        The module, float (N, 3, S, S) -> (N, F), and F.

    Raises:
        InputError: torchvision has no classification model of that name.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise unknown("backbone", name, known)
    model = models.get_model(name, weights=None)
    *path, last = next(
        reversed([n for n, m in model.named_modules() if isinstance(m, nn.Linear)])
    ).split(".")
    parent = model.get_submodule(".".join(path))
    width = parent.get_submodule(last).in_features
    setattr(parent, last, nn.Identity())
    return model, int(width)
