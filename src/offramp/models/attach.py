"""Attach exits to a network: find its points, choose among them, give each its heads, and join it all.

`attach_exits` does it for a network that is there; `plan_network` and `build_network` do it for one that has a name, in two
steps, because a run must be able to build the same network again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from offramp.doors import checked_call
from offramp.errors import InputError
from offramp.models.acceptance import require_float32, require_numbers, require_unit_scale
from offramp.models.feature_maps import Answer, Layout, layout_of, read_answer
from offramp.models.heads import NEEDS_SKIP
from offramp.models.multi_exit import MultiExitNetwork, Wiring
from offramp.models.narrowing import narrow
from offramp.models.observe import Observation, observe
from offramp.models.recipes import find_recipe
from offramp.models.sources import Built, build, full_name, is_user_code
from offramp.models.taps import Points, TapPoint, choose_taps, find_multiple, find_points
from offramp.specs import (
    FINAL,
    HEAD_CHANNELS,
    ExitSpec,
    HeadSpec,
    NetworkChoice,
    NetworkSpec,
    OutputStride,
    Size,
    Triple,
    explain,
)

Heads = HeadSpec | str | Sequence[HeadSpec | str] | Mapping[str, HeadSpec | str | Sequence[HeadSpec | str]]
"""One head for every tap, several for every tap, or the same by the tap's name; as specs or in their text form."""

OBJECT = "object:"
"""What stands for the source of a network that came as an object: nobody can build it by that."""

DEFAULT_HEAD = HeadSpec.parse("fcn")
DEFAULT_FINAL_HEAD = HeadSpec(channels=256)

SKIP_STRIDE = {"skip": 4, "lraspp": 8}
"""Where a head that fuses a shallower map would best take it: DeepLabV3+ and LR-ASPP do so at these strides."""

IMAGENET_MEAN, IMAGENET_STD = NetworkSpec.model_fields["mean"].default, NetworkSpec.model_fields["std"].default


@checked_call
def attach_exits(
    network: nn.Module,
    num_classes: int,
    input_size: tuple[int, int],
    exits: int = 6,
    heads: Heads = DEFAULT_HEAD,
    taps: Sequence[str] | None = None,
    *,
    final_head: HeadSpec | str | None = None,
    mean: Triple = IMAGENET_MEAN,
    std: Triple = IMAGENET_STD,
) -> MultiExitNetwork:
    """Turn a network into a multi-exit one, in one call.

    The network stays what it is: the same object, state-dict names and, as the final exit, the same answers bit for bit;
    `MultiExitNetwork.detach` gives it back. It is run a few times on blank images to find out where exits can be attached.

    Args:
        network: takes normalised images (N, 3, H, W). It gives class scores (N, C, h, w), as a tensor, as `["out"]` or as
            `.logits`, which become the final exit; or a list or dict of feature maps, the last of which gets a final head.
        num_classes: C, from 2 to 255. A network with one channel (a sigmoid) has 2 classes.
        input_size: height and width of the images that it is meant for, pixels.
        exits: how many taps to choose, at even distances in cost.
        heads: see `Heads`. With several, every tap gets an exit for each.
        taps: names of modules to tap instead of choosing.
        final_head: for a backbone; its feature maps may then come as one tensor, too.
        mean: of the channels, with values in [0, 1], that the network expects taken off.
        std: that it expects to be divided by.

    Raises:
        InputError: the network does not run on such images, or gives something else; too few points; a wrong name.

    """
    if not all(16 <= side <= 8192 for side in input_size):
        raise InputError(f"input_size must be height and width, 16 to 8192 pixels each, got {input_size}")
    if exits < 0:
        raise InputError(f"exits must be 0 or more, got {exits}; with 0 the final exit alone answers")
    if taps is not None and not all(isinstance(tap, str) for tap in taps):
        raise InputError(f"taps must be names of modules, got {', '.join(type(tap).__name__ for tap in taps)}")
    require_float32(network)
    require_unit_scale(mean, std)
    spec = _plan(
        network,
        num_classes,
        f"{OBJECT}{type(network).__name__}",
        size=(input_size[1], input_size[0]),
        exits=exits,
        heads=heads,
        taps=taps,
        final_head=final_head,
        mean=mean,
        std=std,
    )
    return join(network, spec)


def plan_network(choice: NetworkChoice, num_classes: int, *, size: Size) -> NetworkSpec:
    """Choose taps and heads for a network that has a name, for images of `size` (width, height).

    Raises:
        InputError: see `sources.build` and `attach_exits`.

    """
    if not all(16 <= side <= 8192 for side in size):
        raise InputError(f"size must be width and height, 16 to 8192 pixels each, got {size}")
    chosen = resolve(choice)
    built = build(chosen.network, num_classes, output_stride=chosen.output_stride)
    # Of a user's own network only a run tells what it gives.
    if not built.features and chosen.final_head is not None and not is_user_code(chosen.network):
        raise InputError(f"{chosen.network} gives class scores itself and takes no final head")
    return _plan(
        built.network,
        num_classes,
        chosen.network,
        size=size,
        exits=chosen.exits,
        heads=chosen.heads,
        taps=chosen.taps,
        final_head=DEFAULT_FINAL_HEAD if chosen.final_head is None and built.features else chosen.final_head,
        mean=built.mean,
        std=built.std,
        output_stride=chosen.output_stride,
    )


def resolve(choice: NetworkChoice) -> NetworkChoice:
    """Fill in what a recipe says and a user did not; the network's name is complete afterwards.

    Raises:
        InputError: the name is neither a recipe nor a source.

    """
    # No library's name for a network has a hyphen and no colon.
    recipe = find_recipe(choice.network) if "-" in choice.network and ":" not in choice.network else None
    if recipe is None:
        return choice.model_copy(update={"network": full_name(choice.network)})
    final_head = recipe.final_head.text if recipe.final_head else None
    values = {"output_stride": recipe.output_stride, "final_head": final_head}
    kept = {name: value for name, value in values.items() if getattr(choice, name) is None}
    return choice.model_copy(update=kept | {"network": full_name(recipe.network)})


def build_network(spec: NetworkSpec, weights: Path | None = None, *, network: nn.Module | None = None) -> MultiExitNetwork:
    """Build the network that `spec` describes; its weights from a local file, if one is given.

    Args:
        spec: as `plan_network` made it.
        weights: see `sources.build`.
        network: the network itself, where it has no name or is known already.

    Raises:
        InputError: see `sources.build`; or an exit names no point of the network, or its widths do not fit.

    """
    if network is None:
        network = _build(spec, weights).network
    return join(network, spec)


def _build(spec: NetworkSpec, weights: Path | None) -> Built:
    return build(spec.network, spec.num_classes, output_stride=spec.output_stride, weights=weights)


def join(network: nn.Module, spec: NetworkSpec) -> MultiExitNetwork:
    """Attach the exits of `spec`, whose taps were chosen for such a network, to this one; narrow both where they were pruned.

    Raises:
        InputError: an exit names no point of the network, or its output or widths are not what the spec says.

    """
    narrow(network, spec.widths)
    width, height = (-(-side // spec.multiple) * spec.multiple for side in spec.input_size)
    points = Points(_observed(network, height, width, spec), blocks=False)
    answer, final = _final(points.output, spec.num_classes, height, width, final_head=spec.final_head is not None)
    if answer.kind == "features" and spec.final_head is None:
        raise InputError("the network gives feature maps alone, so its final exit needs a head")
    names = [name for early in spec.exits for name in (early.tap, early.skip)]
    taps = {name: points.named(name).layout for name in [*names, spec.final_skip] if name is not None}
    joined = MultiExitNetwork(network, spec, Wiring(taps, final))
    return joined.to(next(network.parameters(), torch.zeros(())).device)


def _observed(network: nn.Module, height: int, width: int, spec: NetworkSpec) -> Observation:
    try:
        return observe(network, height, width)
    except RuntimeError as error:
        if not spec.widths:
            raise
        reason = (str(error).splitlines() or ["it does not run"])[0]
        raise InputError(f"the widths that pruning left of {spec.network} do not fit together: {reason}") from error


def with_exits(network: MultiExitNetwork, exits: Sequence[str]) -> MultiExitNetwork:
    """The same network with some of its early exits alone, their heads as they are.

    The one that is given is of no use afterwards.

    Args:
        network: any.
        exits: names of early exits of it; the final exit always stays.

    """
    kept = [(early, head) for early, head in zip(network.spec.exits, network.early_heads, strict=True) if early.name in exits]
    assert len(kept) == len(set(exits)), (exits, network.spec.exit_names)
    spec = network.spec.model_copy(update={"exits": tuple(early for early, _ in kept)})
    needed = {early.tap for early, _ in kept} | {early.skip for early, _ in kept} | {spec.final_skip}
    taps = {name: layout for name, layout in network.wiring.taps.items() if name in needed}
    fewer = MultiExitNetwork(network.detach(), spec, Wiring(taps, network.wiring.final))
    fewer.final_head = network.final_head
    fewer.early_heads = nn.ModuleList(head for _, head in kept)
    return fewer


def as_narrow_as(spec: NetworkSpec, pruned: NetworkSpec) -> NetworkSpec:
    """The same network as narrow as a pruned one: in itself, its final head and the exits that both have."""
    heads = {early.name: early.pruned for early in pruned.exits}
    exits = tuple(early.model_copy(update={"pruned": heads.get(early.name)}) for early in spec.exits)
    return spec.model_copy(update={"widths": pruned.widths, "final_pruned": pruned.final_pruned, "exits": exits})


def _plan(
    network: nn.Module,
    num_classes: int,
    source: str,
    *,
    size: Size,
    exits: int,
    heads: Heads,
    taps: Sequence[str] | None,
    final_head: HeadSpec | str | None,
    mean: Triple,
    std: Triple,
    output_stride: OutputStride | None = None,
) -> NetworkSpec:
    if not 2 <= num_classes <= 255:
        raise InputError(
            f"num_classes must be from 2 to 255, got {num_classes}; one class against everything else makes two: "
            f"the background is a class of its own"
        )
    multiple = find_multiple(network, size[1], size[0])
    height, width = (-(-side // multiple) * multiple for side in (size[1], size[0]))
    points = find_points(network, height, width)
    last = _read_head(final_head) if final_head is not None else None
    answer, final = _final(points.output, num_classes, height, width, final_head=last is not None)
    if last is None and answer.kind == "features":
        last = DEFAULT_FINAL_HEAD
    chosen = choose_taps(points.proposed, exits) if taps is None else _named(points, taps)
    specs = [_exit(points, tap, head) for tap in chosen for head in _heads_at(heads, tap, chosen)]
    end = TapPoint(FINAL, final, points.macs, 1.0, points.parameters, points.end)
    values: dict[str, Any] = {} if last is None else {"final_head": _sized(last, HEAD_CHANNELS)}
    if last is not None:
        values["final_skip"] = _skip(points, end, last)
    try:
        return NetworkSpec(
            network=source,
            output_stride=output_stride,
            num_classes=num_classes,
            input_size=size,
            multiple=multiple,
            mean=mean,
            std=std,
            exits=tuple(specs),
            **values,
        )
    except ValidationError as error:
        raise InputError(f"cannot attach these exits: {explain(error)}") from error


def _final(output: object, num_classes: int, height: int, width: int, *, final_head: bool) -> tuple[Answer, Layout]:
    """What the network gives, and how that holds a map."""
    answer = read_answer(output)
    if answer is not None:
        require_numbers(answer.tensor)
    layout = layout_of(tuple(answer.tensor.shape), height, width) if answer else None
    if answer is None or layout is None:
        got = f"a tensor of shape {tuple(answer.tensor.shape)}" if answer else type(output).__name__
        raise InputError(
            f"the network gives {got} for a {width}x{height} image; wanted are class scores (N, classes, h, w), as a tensor, "
            f'["out"] or .logits, or a list or dict of feature maps, the deepest last'
        )
    scores = layout.channels == num_classes or (layout.channels == 1 and num_classes == 2)
    if final_head and answer.kind == "scores":
        raise InputError("the network gives class scores itself and takes no final head")
    if not final_head and answer.kind == "features" and scores:
        # Many networks give their class scores together with auxiliary ones. A new final head would throw the answer away.
        raise InputError(
            f"the network gives several maps, and the last one's channels, {layout.channels}, fit num_classes={num_classes}; "
            f'if these are class scores, let it give them alone or as ["out"]; if they are features, give a final_head, for '
            f"example {DEFAULT_FINAL_HEAD.text}"
        )
    if not final_head and answer.kind != "features" and not scores:
        raise InputError(
            f"the network gives {layout.channels} channels for num_classes={num_classes}; if these are class scores, say "
            f"num_classes={layout.channels}; if they are features, give a final_head, for example {DEFAULT_FINAL_HEAD.text}"
        )
    return answer, layout


def _named(points: Points, taps: Sequence[str]) -> tuple[TapPoint, ...]:
    """The user's own taps, in order of execution."""
    if len(set(taps)) != len(taps):
        raise InputError(f"a tap is named twice: {', '.join(taps)}")
    return tuple(sorted((points.named(tap) for tap in taps), key=lambda point: point.order))


def _heads_at(heads: Heads, tap: TapPoint, taps: Sequence[TapPoint]) -> tuple[HeadSpec, ...]:
    if isinstance(heads, Mapping):
        unknown = set(heads) - {point.name for point in taps}
        if unknown or tap.name not in heads:
            raise InputError(
                f"heads are given for {', '.join(heads)}, but the taps are {', '.join(point.name for point in taps)}"
            )
        return _heads_at(heads[tap.name], tap, taps)
    asked = [heads] if isinstance(heads, str | HeadSpec) else heads
    if not isinstance(asked, Sequence) and asked is not None:
        raise InputError(f"heads must be texts such as {DEFAULT_HEAD.text}, or HeadSpecs, got {type(asked).__name__}")
    if not asked:
        raise InputError(f"no head is given for {tap.name}; give one, for example {DEFAULT_HEAD.text}, or do not tap it")
    return tuple(_read_head(head) for head in asked)


def _read_head(head: HeadSpec | str) -> HeadSpec:
    if not isinstance(head, str | HeadSpec):
        raise InputError(f"a head must be a text such as {DEFAULT_HEAD.text}, or a HeadSpec, got {type(head).__name__}")
    return HeadSpec.parse(head) if isinstance(head, str) else head


def _exit(points: Points, tap: TapPoint, head: HeadSpec) -> ExitSpec:
    skip = _skip(points, tap, head)
    stride = points.named(skip).stride if skip else tap.stride
    return ExitSpec(tap=tap.name, head=_sized(head, width_at(stride)), skip=skip)


def _sized(head: HeadSpec, width: int) -> HeadSpec:
    """The head with this width, unless its own was given."""
    return head if "channels" in head.model_fields_set else head.model_copy(update={"channels": width})


def width_at(stride: int) -> int:
    """A head's usual width: on a large map each channel costs more, and a shallow map holds less."""
    return max(16, min(HEAD_CHANNELS, 16 * stride))


def _skip(points: Points, tap: TapPoint, head: HeadSpec) -> str | None:
    """The shallower point that a head fuses, if its kind does."""
    need = NEEDS_SKIP[head.kind]
    if need == "never":
        return None
    finer = points.finer_than(tap, SKIP_STRIDE[head.kind])
    if finer is None and need == "must":
        raise InputError(
            f"the head {head.text} at {tap.name} needs a finer point before it, and there is none; take another head"
        )
    return finer.name if finer else None
