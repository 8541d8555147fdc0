"""Heads against the formulas of their papers, torchvision's own, macs by hand, and what gradients see."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import offramp.torchvision_import  # noqa: F401 - torchvision may need help before
from offramp.errors import InputError
from offramp.models.feature_maps import upsample
from offramp.models.heads import HEADS, NEEDS_SKIP, FeatureShape, build_head, head_figures
from offramp.specs import HeadSpec

from torchvision.models.segmentation.deeplabv3 import ASPP  # isort: skip
from torchvision.models.segmentation.lraspp import LRASPPHead  # isort: skip

DEEP, SHALLOW = FeatureShape(12, 16), FeatureShape(6, 4)
SPECS = ("{}/c16", "{}/c8", "{}/c16/r4", "{}/c16/b2", "{}/c16/r2/b2/d")
CASES = [
    pytest.param(form.format(kind), skip, id=form.format(kind) + ("+skip" if skip else ""))
    for kind in HEADS
    for form in SPECS
    for skip in (None, SHALLOW)
    if not (skip is None and NEEDS_SKIP[kind] == "must") and not (skip is not None and NEEDS_SKIP[kind] == "never")
]
every_head = pytest.mark.parametrize(("text", "skip"), CASES)


def build(text: str, skip: FeatureShape | None, features: FeatureShape = DEEP, classes: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return build_head(HeadSpec.parse(text), classes, features, skip)


def maps(skip: FeatureShape | None, batch: int = 2, size: tuple[int, int] = (90, 75), features: FeatureShape = DEEP):
    """What a head on an image of this height and width is given."""
    generator = torch.Generator().manual_seed(1)
    cells = [(tap.channels, -(-size[0] // tap.stride), -(-size[1] // tap.stride)) for tap in (features, skip) if tap]
    return [torch.randn(batch, *shape, generator=generator) for shape in cells]


def stir(head: nn.Module) -> nn.Module:
    """Give batch-norms statistics and weights of their own, so that forgetting one shows."""
    torch.manual_seed(3)
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_var, module.weight.data):
                values.uniform_(0.5, 2.0)
            for values in (module.running_mean, module.bias.data):
                values.normal_()
    return head.eval()


# ---------------------------------------------------------------------------------------------------------------- contract


def test_every_kind_says_whether_it_fuses():
    assert NEEDS_SKIP == {"fcn": "never", "deeplab": "never", "lraspp": "may", "skip": "must"}
    assert HEADS.keys() == NEEDS_SKIP.keys()


@every_head
@pytest.mark.parametrize(("width", "height"), [(480, 360), (75, 50), (64, 64)])
def test_scores_have_the_shallowest_maps_resolution(text, skip, width, height):
    given = maps(skip, 1, (height, width))
    if (width, height) == (480, 360):
        assert [tuple(tap.shape[2:]) for tap in given] == [(23, 30), (90, 120)][: len(given)]
    stride = (skip or DEEP).stride
    with torch.no_grad():
        scores = build(text, skip).eval()(*given)
    assert scores.shape == (1, 5, -(-height // stride), -(-width // stride))


@every_head
def test_gradient_reaches_every_parameter(text, skip):
    head = build(text, skip).train()
    scores = head(*maps(skip))
    (scores * torch.randn(scores.shape)).sum().backward()
    assert {name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()} == set()


@every_head
def test_evaluation_is_deterministic_and_changes_nothing(text, skip):
    head = build(text, skip).eval()
    given = maps(skip)
    kept = [tap.clone() for tap in given]
    state = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    first = head(*given)
    assert torch.equal(head(*given), first)
    assert all(torch.equal(tap, before) for tap, before in zip(given, kept, strict=True))
    assert all(torch.equal(tensor, state[name]) for name, tensor in head.state_dict().items())


@every_head
def test_training_changes_no_features(text, skip):
    given = maps(skip)
    kept = [tap.clone() for tap in given]
    build(text, skip).train()(*given)
    assert all(torch.equal(tap, before) for tap, before in zip(given, kept, strict=True))


@every_head
def test_scores_are_no_probabilities(text, skip):
    with torch.no_grad():
        scores = build(text, skip).eval()(*(10 * tap for tap in maps(skip)))
    assert scores.min() < 0
    assert not torch.allclose(scores.sum(dim=1), torch.ones(()))


@every_head
def test_one_image_is_enough_to_train(text, skip):
    scores = build(text, skip).train()(*maps(skip, batch=1, size=(16, 32)))
    assert scores.shape[2:] == ((1, 2) if skip is None else (4, 8))
    assert scores.isfinite().all()


@every_head
def test_maps_of_one_cell(text, skip):
    with torch.no_grad():
        scores = build(text, skip).eval()(*maps(skip, size=(3, 4)))
    assert scores.shape == (2, 5, 1, 1)
    assert scores.isfinite().all()


@every_head
@pytest.mark.parametrize("classes", [2, 150])
def test_few_and_many_classes(text, skip, classes):
    with torch.no_grad():
        assert build(text, skip, classes=classes).eval()(*maps(skip)).shape[1] == classes


@every_head
def test_images_do_not_see_each_other(text, skip):
    head = stir(build(text, skip))
    given = maps(skip)
    with torch.no_grad():
        assert torch.allclose(head(*given)[1:], head(*(tap[1:] for tap in given)), atol=1e-5)


@pytest.mark.parametrize("text", ["lraspp/c16", "skip/c16"])
def test_a_skip_at_the_same_stride_is_not_resized(text, monkeypatch):
    monkeypatch.setattr(functional, "interpolate", lambda *_, **__: pytest.fail("resized"))
    skip = FeatureShape(6, 16)
    with torch.no_grad():
        assert build(text, skip).eval()(*maps(skip)).shape == (2, 5, 6, 5)


# ------------------------------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("text", "features", "skip", "message"),
    [
        ("skip/c64", DEEP, None, r"'skip/c64' fuses a shallower tap, got none; name one: TAP\+SHALLOWER_TAP:skip/c64"),
        ("fcn/r4", DEEP, SHALLOW, r"'fcn/r4' fuses no shallower tap, got one at stride 4; .* take lraspp or skip"),
        ("deeplab", DEEP, SHALLOW, r"'deeplab' fuses no shallower tap"),
        ("skip", FeatureShape(12, 12), FeatureShape(6, 8), r"'skip' cannot fuse a tap at stride 8 with its own at stride 12"),
        ("lraspp", SHALLOW, DEEP, r"'lraspp' cannot fuse a tap at stride 16 with its own at stride 4; take a shallower"),
    ],
)
def test_combinations_that_are_refused(text, features, skip, message):
    with pytest.raises(InputError, match=message):
        build_head(HeadSpec.parse(text), 5, features, skip)
    with pytest.raises(InputError, match=message):
        head_figures(HeadSpec.parse(text), 5, features, skip, (64, 64))


# --------------------------------------------------------------------------------------------------------------- upsampling


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
def test_upsampling_of_whole_multiples(factor):
    cells = torch.randn(2, 3, 5, 7)
    expected = functional.interpolate(cells, scale_factor=factor, mode="bilinear", align_corners=False)
    assert torch.allclose(upsample(cells, factor, 5 * factor, 7 * factor), expected, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(17, 25), (20, 28), (19, 26)])
def test_upsampling_keeps_every_cell_in_its_place(height, width):
    # Each deep cell holds the place of its centre among the shallow ones, of which it covers 4 x 4.
    rows = (4.0 * torch.arange(5) + 1.5).reshape(1, 1, 5, 1).expand(1, 1, 5, 7)
    columns = (4.0 * torch.arange(7) + 1.5).reshape(1, 1, 1, 7).expand(1, 1, 5, 7)
    places = upsample(torch.cat([rows, columns], dim=1), 4, height, width)
    assert places.shape == (1, 2, height, width)
    inner_y, inner_x = torch.arange(2, min(height, 18)), torch.arange(2, min(width, 26))
    assert torch.allclose(places[0, 0, 2:18, 0], inner_y.float(), atol=1e-5)
    assert torch.allclose(places[0, 1, 0, 2:26], inner_x.float(), atol=1e-5)


@pytest.mark.parametrize("text", ["skip/c16", "lraspp/c16"])
def test_fused_scores_stay_in_their_place(text):
    # A larger image with the same content in its upper left corner gives the same scores there, whatever hangs over the edge.
    # Image pooling sees everything: its gate is closed to it.
    head = stir(build(text, SHALLOW))
    if text.startswith("lraspp"):
        nn.init.zeros_(head.gate.weight)
    deep, shallow = maps(SHALLOW, 1, (128, 160))
    with torch.no_grad():
        whole = head(deep, shallow)
        cut = head(deep[..., :6, :8], shallow[..., :22, :29])  # of an image of 88 x 116
    assert cut.shape[2:] == (22, 29)
    assert torch.allclose(cut[..., :21, :28], whole[..., :21, :28], atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------- by papers


def normal(block: nn.Sequential, inputs: torch.Tensor, convolve) -> torch.Tensor:
    """A convolution, batch-norm and ReLU written out."""
    norm = block[1]
    shape = (1, -1, 1, 1)
    values = (convolve(inputs, block[0].weight) - norm.running_mean.reshape(shape)) / (
        norm.running_var + norm.eps
    ).sqrt().reshape(shape)
    return (values * norm.weight.reshape(shape) + norm.bias.reshape(shape)).clamp_min(0)


def dilated(rate):
    return lambda inputs, weight: functional.conv2d(inputs, weight, padding=rate, dilation=rate)


@torch.no_grad()
def test_front_by_hand():
    head = stir(build("fcn/c16/r2/b3/d", None, FeatureShape(20, 8)))
    features = torch.randn(2, 20, 9, 11)
    expected = normal(head.front.reduce, features, functional.conv2d)
    assert expected.shape[1] == 10
    for block, dilation in zip(head.front.blocks, (2, 4, 8), strict=True):
        expected = functional.relu(expected + block.norm(dilated(dilation)(expected, block.conv.weight)))
    assert torch.allclose(head.front(features), expected, atol=1e-5)
    expected = head.classify(normal(head.mix, expected, dilated(1)))
    assert torch.allclose(head(features), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "channels", "width"),
    [("fcn", 40, 40), ("fcn/r4", 40, 10), ("fcn/r8", 40, 8), ("fcn/r8", 160, 20), ("fcn/b1", 3, 3)],
)
def test_width_of_the_front(text, channels, width):
    front = build(text, None, FeatureShape(channels, 8)).front
    assert front.out_channels == width
    assert front(torch.randn(1, channels, 3, 3)).shape[1] == width


def test_no_front_is_the_identity():
    head = build("fcn/c8", None)
    features = torch.randn(1, 12, 3, 3)
    assert head.front(features) is features
    assert [name for name, _ in head.named_parameters() if name.startswith("front")] == []


@pytest.mark.parametrize(
    ("stride", "rates"),
    [
        (2, (12, 24, 36)),
        (4, (12, 24, 36)),
        (8, (12, 24, 36)),
        (14, (7, 14, 21)),
        (16, (6, 12, 18)),
        (32, (3, 6, 9)),
        (128, (1, 2, 2)),
    ],
)
@torch.no_grad()
def test_pyramid_by_hand(stride, rates):
    head = stir(build("deeplab/c16", None, FeatureShape(12, stride)))
    features = torch.randn(2, 12, 40, 45)
    branches = [normal(head.branches[0], features, functional.conv2d)]
    branches += [normal(branch, features, dilated(rate)) for branch, rate in zip(head.branches[1:], rates, strict=True)]
    pooled = functional.relu(
        torch.einsum("oi,ni->no", head.pool[0].weight[..., 0, 0], features.mean((2, 3))) + head.pool[0].bias
    )
    branches.append(pooled[..., None, None] * torch.ones(40, 45))
    expected = head.classify(normal(head.project, torch.cat(branches, dim=1), functional.conv2d))
    assert torch.allclose(head(features), expected, atol=1e-4)


@torch.no_grad()
def test_pyramid_against_torchvision():
    head = stir(build("deeplab/c16", None))
    reference = stir(ASPP(12, (6, 12, 18), 16))
    for ours, theirs in zip([*head.branches, head.project], [*reference.convs[:4], reference.project], strict=True):
        theirs.load_state_dict(ours.state_dict())
    # Theirs normalises the pooled map instead of adding a bias; with these statistics that is the same.
    convolution, norm = reference.convs[4][1], reference.convs[4][2]
    convolution.weight.copy_(head.pool[0].weight)
    nn.init.zeros_(norm.running_mean)
    norm.running_var.fill_(1 - norm.eps)
    nn.init.ones_(norm.weight)
    norm.bias.copy_(head.pool[0].bias)
    features = torch.randn(2, 12, 23, 30)
    assert torch.allclose(head(features), head.classify(reference(features)), atol=1e-5)


@torch.no_grad()
def test_lraspp_against_torchvision():
    head = stir(build("lraspp/c16", SHALLOW))
    reference = stir(LRASPPHead(6, 12, 5, 16))
    pairs = [(head.mix, reference.cbr), (head.gate, reference.scale[1])]
    pairs += [(head.classify_skip, reference.low_classifier), (head.classify, reference.high_classifier)]
    for ours, theirs in pairs:
        theirs.load_state_dict(ours.state_dict())
    deep, shallow = maps(SHALLOW, 2, (96, 128))
    assert torch.allclose(head(deep, shallow), reference({"high": deep, "low": shallow}), atol=1e-5)


@torch.no_grad()
def test_lraspp_alone_by_hand():
    head = stir(build("lraspp/c16", None))
    features = torch.randn(2, 12, 6, 5)
    gate = torch.einsum("oi,ni->no", head.gate.weight[..., 0, 0], features.mean((2, 3)))
    expected = head.classify(normal(head.mix, features, functional.conv2d) / (1 + (-gate[..., None, None]).exp()))
    assert torch.allclose(head(features), expected, atol=1e-5)


@torch.no_grad()
def test_skip_decoder_is_one_that_concatenates():
    head = stir(build("skip/c32", SHALLOW))
    deep, shallow = maps(SHALLOW, 2, (88, 100))
    low = normal(head.deep, deep, functional.conv2d)
    high = normal(head.shallow, shallow, functional.conv2d)
    assert high.shape[1] == 12  # 32 * 3 / 8
    stretched = functional.interpolate(low, scale_factor=4, mode="bilinear", align_corners=False)[..., :22, :25]
    pointwise = torch.cat([head.mix_deep.weight, head.mix_shallow.weight], dim=1)
    mixed = functional.relu(head.refine[0](functional.conv2d(torch.cat([stretched, high], dim=1), pointwise)))
    depthwise = functional.conv2d(mixed, head.refine[2].weight, padding=1, groups=32)
    expected = head.classify(functional.relu(head.refine[3](depthwise)))
    assert torch.allclose(head(deep, shallow), expected, atol=1e-4)


@pytest.mark.parametrize(("channels", "few"), [(128, 48), (64, 24), (16, 8), (256, 96)])
def test_few_channels_of_the_skip(channels, few):
    assert build(f"skip/c{channels}", SHALLOW).shallow[0].out_channels == few


# ------------------------------------------------------------------------------------------------------------------ figures

LOW, HIGH = 23 * 30, 90 * 120
"""Cells at stride 16 and 4 of an image of 480x360."""

COSTS = [
    # text, skip, macs, parameters: weights of convolutions, two numbers for each normalised channel, biases
    ("fcn/c16", None, LOW * (12 * 9 * 16 + 16 * 5), 12 * 9 * 16 + 2 * 16 + 16 * 5 + 5),
    (
        "fcn/c16/r4/b2",  # max(8, 12 / 4) channels
        None,
        LOW * (12 * 8 + 2 * 8 * 9 * 8 + 8 * 9 * 16 + 16 * 5),
        12 * 8 + 2 * 8 + 2 * (8 * 9 * 8 + 2 * 8) + 8 * 9 * 16 + 2 * 16 + 16 * 5 + 5,
    ),
    (
        "deeplab/c16",
        None,
        LOW * (12 * 16 + 3 * 12 * 9 * 16 + 5 * 16 * 16 + 16 * 5) + 12 * 16,
        (12 * 16 + 3 * 12 * 9 * 16 + 4 * 2 * 16) + (12 * 16 + 16) + (5 * 16 * 16 + 2 * 16) + 16 * 5 + 5,
    ),
    ("lraspp/c16", None, LOW * (12 * 16 + 16 * 5) + 12 * 16, 12 * 16 + 2 * 16 + 12 * 16 + 16 * 5 + 5),
    (
        "lraspp/c16",
        SHALLOW,
        LOW * (12 * 16 + 16 * 5) + 12 * 16 + HIGH * 6 * 5,
        12 * 16 + 2 * 16 + 12 * 16 + 16 * 5 + 5 + 6 * 5 + 5,
    ),
    (
        "skip",  # 128 channels
        SHALLOW,
        LOW * (12 * 128 + 128 * 128) + HIGH * (6 * 48 + 48 * 128 + 128 * 9 + 128 * 5),
        (12 + 128) * 128 + 2 * 128 + 6 * 48 + 2 * 48 + 48 * 128 + 2 * 128 + 128 * 9 + 2 * 128 + 128 * 5 + 5,
    ),
]


@pytest.mark.parametrize(("text", "skip", "macs", "parameters"), COSTS)
def test_costs_by_hand(text, skip, macs, parameters):
    figures = head_figures(HeadSpec.parse(text), 5, DEEP, skip, (480, 360))
    assert (figures.macs, figures.parameters) == (macs, parameters)


def test_figures_draw_no_random_numbers():
    state = torch.get_rng_state()
    head_figures(HeadSpec(), 5, DEEP, None, (64, 64))
    assert torch.equal(torch.get_rng_state(), state)


FIELDS = [
    # text, stride, skip's stride, cells seen on a side, image pooling
    ("fcn/c4", 16, None, 3, False),
    ("fcn/c4", 8, None, 3, False),
    ("fcn/c4/r2/b2", 8, None, 3 + 2 + 2, False),
    ("fcn/c4/b3/d", 8, None, 3 + 4 + 8 + 16, False),
    ("deeplab/c4", 16, None, 1 + 2 * 18, True),
    ("deeplab/c4/b1/d", 32, None, 1 + 2 * 9 + 4, True),
    ("lraspp/c4", 16, None, 1, True),
    ("lraspp/c4/b1", 16, 16, 3, True),
    ("lraspp/c4", 16, 8, 2, True),
    ("lraspp/c4/b2/d", 16, 4, 2 + 4 + 8, True),
    ("skip/c4", 16, 16, 3, False),
    ("skip/c4", 16, 8, 3, False),
    ("skip/c4", 24, 8, 3, False),
    ("skip/c4", 16, 4, 3, False),
    ("skip/c4/r2", 32, 4, 3, False),
    ("skip/c4/b2/d", 16, 4, 3 + 4 + 8, False),
]


def side_seen(head: nn.Module, features: torch.Tensor, skip: torch.Tensor | None) -> int:
    """Rows of `features` that one score's gradient reaches, at the score of the middle cell's that reaches most."""
    scores = head(features) if skip is None else head(features, skip)
    factor, middle = scores.shape[2] // features.shape[2], scores.shape[2] // 2
    sides = []
    for row in range(middle, middle + factor):
        (gradient,) = torch.autograd.grad(scores[0, 0, row, middle], features, retain_graph=True)
        rows = gradient[0].sum(dim=(0, 2)).nonzero().flatten()
        sides.append(int(rows[-1] - rows[0]) + 1)
    return max(sides)


@pytest.mark.parametrize(("text", "stride", "skip_stride", "cells", "pools"), FIELDS)
def test_receptive_field_against_gradients(text, stride, skip_stride, cells, pools):
    features, skip = FeatureShape(2, stride), FeatureShape(2, skip_stride) if skip_stride else None
    figures = head_figures(HeadSpec.parse(text), 2, features, skip, (256, 256))
    assert (figures.receptive_field, figures.whole_image) == (cells * stride, pools)
    head = build(text, skip, features, classes=2).double().eval()
    for parameter in head.parameters():
        parameter.data.abs_().add_(0.01)  # nothing cancels, no ReLU is shut
    given = torch.rand(1, 2, 41, 41, dtype=torch.float64, requires_grad=True)
    other = (
        torch.rand(1, 2, 41 * stride // skip_stride, 41 * stride // skip_stride, dtype=torch.float64) if skip_stride else None
    )
    if pools:
        assert side_seen(head, given, other) == 41
        pooling = head.pool[0] if text.startswith("deeplab") else head.gate
        nn.init.zeros_(pooling.weight)
    assert side_seen(head, given, other) == cells


# ------------------------------------------------------------------------------------------------------------------- export


@pytest.mark.parametrize(
    ("text", "skip"),
    [("fcn/c8/r2/b1/d", None), ("deeplab/c8", None), ("lraspp/c8", None), ("lraspp/c8", SHALLOW), ("skip/c8", SHALLOW)],
)
@pytest.mark.filterwarnings("ignore")  # the exporter warns about its own internals
def test_onnx_with_static_shapes(text, skip):
    import onnxruntime

    head = stir(build(text, skip))
    given = maps(skip, 1, (88, 100))
    program = torch.onnx.export(head, tuple(given), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    names = [value.name for value in session.get_inputs()]
    (scores,) = session.run(None, dict(zip(names, [tap.numpy() for tap in given], strict=True)))
    with torch.no_grad():
        expected = head(*given)
    assert session.get_outputs()[0].shape == list(expected.shape)
    assert torch.allclose(torch.from_numpy(scores), expected, atol=1e-4)
