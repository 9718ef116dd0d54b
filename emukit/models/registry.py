"""Every network by name: one table.

Invariant: a network is found by its name and built from plain values alone. A new one is a file and a line here, or a
package with an entry point in the group ``emukit.networks`` (docs/plugins.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from emukit.errors import RecipeError
from emukit.registry import Entry, Registry

if TYPE_CHECKING:
    from torch import nn

# What emukit fills in; every other keyword of a network's constructor is an option of the user's.
CONTEXT = ("in_channels", "variables", "grid", "history")


def _is_network(found: Any) -> bool:
    from torch import nn

    return isinstance(found, type) and issubclass(found, nn.Module)


NETWORKS: Registry[Entry] = Registry(
    "network",
    "emukit.networks",
    {
        "cnn-gru": Entry(
            "emukit.models.cnn_gru:CNNGRU",
            "pooled convolutional encoder and GRU, separate tas and pr heads; trains on a laptop",
        ),
        "cnn-gru-published": Entry(
            "emukit.models.cnn_gru_published:PublishedCNNGRU",
            "the competition's third place as published, 353 M parameters at width 32; wants a GPU",
        ),
        "convlstm": Entry(
            "emukit.models.convlstm:ConvLSTM",
            "ConvLSTM over each window on a coarse map, linear path, head weights of each cell; trains on a laptop",
        ),
        "unet": Entry(
            "emukit.models.unet:UNet",
            "residual U-Net told of the window by FiLM or by channels, linear path; trains on a laptop",
        ),
        "simple-cnn": Entry(
            "emukit.models.simple_cnn:SimpleCNN",
            "the competition's starter kit as published, 10.7 M parameters, one month at a time; wants a GPU",
        ),
        "plain-unet": Entry(
            "emukit.models.plain_unet:PlainUNet",
            "the U-Net of textbooks, 7.7 M parameters, one month at a time, any grid; wants a GPU",
        ),
        "transformer": Entry(
            "emukit.models.transformer:Transformer",
            "patches of each frame read once, attention in space and over the window; trains on a laptop",
        ),
        "dit": Entry(
            "emukit.models.dit:DiT",
            "diffusion transformer, global attention of patches; takes noise of any level",
        ),
        "denoising-unet": Entry(
            "emukit.models.denoising_unet:DenoisingUNet",
            "residual U-Net on the full grid; takes noise of any level",
        ),
        "hybrid": Entry(
            "emukit.models.hybrid:Hybrid",
            "spectral dynamical core with a learned closure of columns; reads states; needs the extra core",
        ),
        "local-cnn": Entry(
            "emukit.models.local_cnn:LocalCNN",
            "convolutions on the full grid, of few cells; adds local detail",
        ),
    },
    entry=Entry,
    accepts=_is_network,
    expected="a subclass of torch.nn.Module",
)


def build_network(
    name: str,
    *,
    in_channels: int,
    variables: int,
    grid: tuple[int, int],
    history: int,
    options: Mapping[str, Any],
) -> nn.Module:
    """Build a network with fresh weights from torch's current random state.

    Args:
        name: Its name in the registry.
        in_channels: C, channels of a frame.
        variables: V, target variables.
        grid: (Y, X).
        history: H, frames of a window.
        options: The constructor's other keywords.

    Returns:
        A module with forward (S, L+H-1, C, Y, X) -> (S, L, V, Y, X).

    Raises:
        RecipeError: An option's value cannot be built, such as a width of zero or more halvings than cells.
    """
    build = NETWORKS.load(name)
    try:
        return build(  # type: ignore[no-any-return]
            in_channels=in_channels, variables=variables, grid=grid, history=history, **options
        )
    except (ValueError, TypeError) as e:
        raise RecipeError(
            f"cannot build {name} with these options", found=str(e).splitlines()[0], hint="fix --set model.*"
        ) from e
    except RuntimeError as e:
        # torch cannot allocate a network of that size; counting it takes no memory, but may overflow.
        found = str(e).splitlines()[0]
        if "alloc" in found or "out of memory" in found:
            import torch

            with suppress(RuntimeError), torch.device("meta"):
                shell = build(in_channels=in_channels, variables=variables, grid=grid, history=history, **options)
                size = sum(p.nbytes for p in shell.parameters())
                found = f"{size:,} bytes of weights: more than can be allocated here"
        raise RecipeError(
            f"cannot build {name} with these options",
            found=found,
            hint="a smaller model by --set model.*; `emukit plan` says what a model takes and what is free",
        ) from e


def asks(network: type[nn.Module]) -> bool:
    """Whether networks of a class ask, by a method `know`, what their frames and fields are before they are trained."""
    return callable(getattr(network, "know", None))


def count_parameters(
    name: str, *, in_channels: int, variables: int, grid: tuple[int, int], history: int, options: Mapping[str, Any]
) -> int:
    """Number of trainable parameters, without allocating any."""
    import torch

    with torch.device("meta"):
        network = build_network(
            name, in_channels=in_channels, variables=variables, grid=grid, history=history, options=options
        )
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
