"""Where networks come from: `build` turns a text such as `torchvision:fcn_resnet50` into a network.

Three kinds come out: networks that give class scores, feature-only networks (timm's, and torchvision's classifiers without
their classifier), and whatever a function of the user's own gives. Weights are random or read from a local safetensors file:
nothing is ever downloaded. Libraries are imported by the builder that needs them, for they are large and some are optional.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import itertools
import logging
import re
import sys
import traceback
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from offramp.errors import InputError
from offramp.models.finite import require_finite
from offramp.specs import OutputStride, Triple

IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: tuple[Triple, Triple] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

NORMALISATION: dict[str, tuple[Triple, Triple]] = {
    "dpn": ((124 / 255, 117 / 255, 104 / 255), (0.2348245, 0.2348245, 0.2348245)),
    **dict.fromkeys(("inception", "xception", "timm-tf_efficientnet_lite", "Beit", "DPT", "Data2Vec", "MobileNetV2"), HALF),
    "MobileViT": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # published weights also expect blue first, which nobody can say here
}
"""By the beginning of smp's encoder or transformers' class, which would download theirs; all others take ImageNet's."""

SMP_DILATED = ("deeplabv3", "deeplabv3plus")
"""The architectures whose encoder can be dilated."""

CUT = (nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear, nn.Dropout)
"""With the first of these, a classifier of torchvision stops being a feature extractor."""

FORMS = "write timm:NAME, torchvision:NAME, smp:ARCH/ENCODER, transformers:CLASS or path/to/file.py:function"


@dataclass(frozen=True)
class Built:
    """A network, and how its input is normalised."""

    network: nn.Module
    mean: Triple
    """Of the channels, with values in [0, 1], that the network expects."""
    std: Triple
    features: bool = False
    """Whether it gives feature maps alone, and needs a final head."""


def build(source: str, num_classes: int, *, output_stride: OutputStride | None = None, weights: Path | None = None) -> Built:
    """Build the network that `source` names.

    Args:
        source: one of the FORMS; a name alone is timm's.
        num_classes: how many class scores the network gives; feature-only networks give none.
        output_stride: strides beyond it are replaced by dilation; for timm's networks and smp's DeepLabV3 and DeepLabV3Plus.
            None: as the network is, but timm's at 16 where they can be dilated.
        weights: a local safetensors file, or None for random ones. For timm's networks ImageNet weights in timm's names, for
            all others the whole network's, name by name.

    Raises:
        InputError: no such network, it cannot be built, or the weights do not fit or hold NaN or infinity.

    """
    source = full_name(source)
    if weights is not None:
        _check_weights(weights)
    if is_user_code(source):
        return _from_file(source, num_classes, output_stride, weights)
    kind, _, name = source.partition(":")
    return SOURCES[kind](name, num_classes, output_stride, weights)


def full_name(source: str) -> str:
    """Check the form alone and name the library: `resnet50` is `timm:resnet50`. Nothing is imported or run.

    Raises:
        InputError: not of the form.

    """
    source = source.strip()
    if is_user_code(source):
        return source
    kind, _, name = source.partition(":") if ":" in source else ("timm", "", source)
    if kind not in SOURCES:
        raise InputError(f"no source of networks is called {kind!r}, in {source!r}; {_near(kind, SOURCES)}; {FORMS}")
    form = r"\w+/[\w.-]+" if kind == "smp" else r"\w[\w.-]*(?<!\.py)"
    if not re.fullmatch(form, name):
        raise InputError(f"not a network: {source!r}; {FORMS}")
    return f"{kind}:{name}"


def is_user_code(source: str) -> bool:
    """Whether `source` names a function in a Python file, `path/to/file.py:function`."""
    path, _, function = source.strip().rpartition(":")
    return path.endswith(".py") and function.isidentifier()


def _near(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=4, cutoff=0.5)
    return f"near it: {', '.join(near)}" if near else f"there are {', '.join(names[:8])}{' ...' * (len(names) > 8)}"


def _reason(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _normalisation(name: str) -> tuple[Triple, Triple]:
    return next((values for start, values in NORMALISATION.items() if name.startswith(start)), IMAGENET)


def _library(module: str, package: str, source: str) -> Any:
    """Import a library, quietly: what it warns about while it is imported is not the user's doing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(ImportError):
            importlib.import_module("offramp.torchvision_import")  # all of them import torchvision, which may need help
        try:
            return importlib.import_module(module)
        except ImportError as error:
            raise InputError(f"{source} needs {package} ({_reason(error)}); pip install {package}") from error


@contextmanager
def _building(what: str) -> Iterator[None]:
    """Turn whatever a library raises while it builds `what` into an InputError, and keep its warnings out."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot build {what}: {_reason(error)}; choose another network") from error


def _no_stride(source: str, output_stride: OutputStride | None) -> None:
    if output_stride is not None:
        able = "only timm's networks and smp's DeepLabV3 and DeepLabV3Plus take one"
        raise InputError(f"{source} takes no output stride, got {output_stride}; leave it out ({able})")


def _from_timm(name: str, _num_classes: int, output_stride: OutputStride | None, weights: Path | None) -> Built:
    """Feature-only: a list of feature maps, the deepest last."""
    timm = _library("timm", "timm", f"timm:{name}")
    names = timm.list_models()
    if name.partition(".")[0] not in names:  # what follows a dot names published weights
        raise InputError(f"timm has no network {name!r}; {_near(name, names)}")
    local = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(weights)}} if weights else {}
    options: dict[str, Any] = {"features_only": True, **local}
    what = f"timm:{name} at output stride {output_stride or 16}" + (f" with the weights {weights}" if weights else "")
    with _building(what), _timm_log() as missing:
        try:
            network = timm.create_model(name, output_stride=output_stride or 16, **options)
        except (TypeError, AssertionError, NotImplementedError):
            if output_stride is not None:
                raise
            network = timm.create_model(name, **options)  # one that cannot be dilated, and nobody asked for it
        network.feature_info.channels()  # a network without feature maps fails here
        settings = timm.get_pretrained_cfg(name)
    classifier = (settings.classifier if settings else None) or ()  # timm itself drops it from the weights
    classifiers = (classifier,) if isinstance(classifier, str) else classifier
    lacking = [each for each in missing if each.rpartition(".")[0] not in classifiers]
    if lacking:
        lack = f"{len(lacking)} tensors ({', '.join(lacking[:2])})"
        raise InputError(f"cannot build {what}: they lack {lack}; give the weights of this very network")
    mean, std = (settings.mean, settings.std) if settings else IMAGENET
    return Built(network, tuple(mean), tuple(std), features=True)


@contextmanager
def _timm_log() -> Iterator[list[str]]:
    """Hear what weights lack, which timm only logs, and silence that they have a classifier, which is as it should be."""
    logger = logging.getLogger("timm.models._builder")
    missing: list[str] = []

    def listen(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if text.startswith("Missing keys"):
            missing.extend(text.partition("(")[2].partition(")")[0].split(", "))
        return record.levelno >= logging.WARNING and not text.startswith("Unexpected keys")

    level = logger.level
    logger.addFilter(listen)
    logger.setLevel(logging.INFO)
    try:
        yield missing
    finally:
        logger.removeFilter(listen)
        logger.setLevel(level)


def _from_torchvision(name: str, num_classes: int, output_stride: OutputStride | None, weights: Path | None) -> Built:
    source = f"torchvision:{name}"
    models = _library("torchvision", "torchvision", source).models
    _no_stride(source, output_stride)
    names = models.list_models(models) + models.list_models(models.segmentation)
    if name not in names:
        known = name in models.list_models()
        what = "is no network for segmenting or classifying images" if known else "is not known to torchvision"
        raise InputError(f"{source} {what}; {_near(name, names)}")
    features = name not in models.list_models(models.segmentation)
    removed: tuple[str, ...] = ("aux_classifier",)  # trained beside the network, and in most published weights
    with _building(source):
        if features:
            network, removed = _without_classifier(models.get_model(name, weights=None), source)
        else:
            network = models.get_model(name, weights=None, weights_backbone=None, num_classes=num_classes)
        preset = models.get_model_weights(name).DEFAULT.transforms()
    _load(network, weights, source, removed)
    return Built(network, tuple(preset.mean), tuple(preset.std), features)


def _without_classifier(network: nn.Module, source: str) -> tuple[nn.Sequential, tuple[str, ...]]:
    """Keep the children before the classifier; checked against the whole network, whose forward may do more than run them."""
    children = dict(network.named_children())
    kept = OrderedDict(itertools.takewhile(lambda item: not _begins_classifier(item[1]), children.items()))
    features = nn.Sequential(kept).eval()
    network.eval()
    image = torch.linspace(-2, 2, 3 * 96 * 128).reshape(1, 3, 96, 128)
    wanted: list[torch.Tensor] = []
    hook = next(reversed(kept.values())).register_forward_hook(lambda *call: wanted.append(call[2].clone()))
    reason = "its parts do not run in a row"
    try:
        with torch.no_grad():
            network(image)
            hook.remove()
            got = features(image)
        same = len(wanted) == 1 and got.dim() == 4 and torch.equal(got, wanted[0])
    except Exception as error:  # noqa: BLE001 - whatever stops it from running
        same, reason = False, _reason(error)
    if not same:
        raise InputError(f"{source} gives no feature map without its classifier: {reason}; take one of timm's networks")
    return features.train(), tuple(name for name in children if name not in kept)


def _begins_classifier(child: nn.Module) -> bool:
    return any(isinstance(part, CUT) for part in [child, *(child if isinstance(child, nn.Sequential) else ())])


def _from_smp(name: str, num_classes: int, output_stride: OutputStride | None, weights: Path | None) -> Built:
    source = f"smp:{name}"
    smp = _library("segmentation_models_pytorch", "segmentation-models-pytorch", source)
    timm = importlib.import_module("timm")  # smp is built on it
    given, _, encoder = name.partition("/")
    architectures = {lower: kind.__name__ for lower, kind in smp.MODEL_ARCHITECTURES_MAPPING.items()}
    if given.lower() not in architectures:
        raise InputError(f"segmentation_models_pytorch has no architecture {given!r}; {_near(given, architectures.values())}")
    encoders = [*smp.encoders.encoders, *(f"tu-{network}" for network in timm.list_models())]
    if encoder not in encoders and not (encoder.startswith("tu-") and encoder.split(".")[0] in encoders):
        raise InputError(f"segmentation_models_pytorch has no encoder {encoder!r}; {_near(encoder, encoders)}")
    if given.lower() not in SMP_DILATED:
        _no_stride(source, output_stride)
    options = {} if output_stride is None else {"encoder_output_stride": output_stride}
    with _building(source):
        network = smp.create_model(given, encoder_name=encoder, encoder_weights=None, classes=num_classes, **options)
        settings = timm.get_pretrained_cfg(encoder.removeprefix("tu-")) if encoder.startswith("tu-") else None
    _load(network, weights, source)
    mean, std = (settings.mean, settings.std) if settings else _normalisation(encoder)
    return Built(network, tuple(mean), tuple(std))


def _from_transformers(name: str, num_classes: int, output_stride: OutputStride | None, weights: Path | None) -> Built:
    source = f"transformers:{name}"
    transformers = _library("transformers", "transformers", source)
    _no_stride(source, output_stride)
    names = [each for each in dir(transformers) if each.endswith("ForSemanticSegmentation") and not each.startswith("Auto")]
    if name not in names:
        ordered = sorted(names, key=lambda each: -difflib.SequenceMatcher(None, each, name).ratio())
        raise InputError(f"{source} is no class of transformers for semantic segmentation; nearest first: {', '.join(ordered)}")
    with _building(source), _hub_closed():
        network_class = getattr(transformers, name)
        network = network_class(network_class.config_class(num_labels=num_classes))
    _load(network, weights, source)
    return Built(network, *_normalisation(name))


@contextmanager
def _hub_closed() -> Iterator[None]:
    """A configuration may name a backbone, which transformers would then look for in the network."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _from_file(source: str, num_classes: int, output_stride: OutputStride | None, weights: Path | None) -> Built:
    """Run the user's own function; called with the number of classes, if it takes it."""
    _no_stride(source, output_stride)
    given, _, name = source.rpartition(":")
    path = Path(given).resolve()
    if not path.is_file():
        raise InputError(f"no file {given}, for the network {source}; {FORMS}")
    try:
        with _folder_importable(path.parent):
            function = _function_of(path, name)
            network = function(num_classes) if inspect.signature(function).parameters else function()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = frames[-1].lineno if frames else error.lineno if isinstance(error, SyntaxError) else None
        place = f" at {given}, line {line}" if line else ""
        raise InputError(f"{source} failed: {type(error).__name__}: {_reason(error)}{place}; mend the file") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"{source} must give a torch.nn.Module, got {type(network).__name__}")
    _load(network, weights, source)
    return Built(network, *IMAGENET)


def _function_of(path: Path, function: str) -> Callable[..., object]:
    """Run a Python file as a module; its name, made from its path, clashes with no other (dataclasses look it up)."""
    name = f"offramp_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec: Any = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    defined: dict[str, Callable[..., object]] = {key: value for key, value in vars(module).items() if callable(value)}
    if function not in defined:
        raise InputError(f"{path} has no function {function!r}; {_near(function, (key for key in defined if key[0] != '_'))}")
    return defined[function]


@contextmanager
def _folder_importable(folder: Path) -> Iterator[None]:
    """Let a file import its neighbours; afterwards their names are free again, for another file may have others so called."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            place, file = folder / name.partition(".")[0], Path(getattr(sys.modules[name], "__file__", None) or "/")
            if file == place.with_suffix(".py") or file.is_relative_to(place):
                del sys.modules[name]


def _check_weights(path: Path) -> None:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - only where weights are given

    if path.suffix != ".safetensors":
        raise InputError(f"weights must be a .safetensors file, got {path.name}; pickled files can run code and are not read")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read the weights {path}: {error}") from error
    require_finite(tensors, f"the weights {path}", "give weights of a training that ended well")


def _load(network: nn.Module, path: Path | None, source: str, removed: tuple[str, ...] = ()) -> None:
    """Fill the whole network from a file, if any; names under the `removed` children are passed over, halves widened."""
    if path is None:
        return
    from safetensors.torch import load_file  # noqa: PLC0415 - only where weights are given

    wanted = network.state_dict()
    given = {name: tensor for name, tensor in load_file(path).items() if name.split(".")[0] not in removed or name in wanted}
    both = [(name, given[name], wanted[name]) for name in wanted if name in given]
    problems = {
        "missing": [name for name in wanted if name not in given],
        "unexpected": [name for name in given if name not in wanted],
        "of another shape": [f"{name}: {(*a.shape,)} for {(*b.shape,)}" for name, a, b in both if a.shape != b.shape],
        "of another type": [f"{name}: {a.dtype}" for name, a, b in both if a.is_floating_point() != b.is_floating_point()],
    }
    found = [f"{len(names)} {what} ({', '.join(names[:2])})" for what, names in problems.items() if names]
    if found:
        raise InputError(f"the weights {path} do not fit {source}: {'; '.join(found)}; give the whole network's own state dict")
    network.load_state_dict(given)


SOURCES: dict[str, Callable[[str, int, OutputStride | None, Path | None], Built]] = {
    "timm": _from_timm,
    "torchvision": _from_torchvision,
    "smp": _from_smp,
    "transformers": _from_transformers,
}
"""What stands before the colon, and who builds it."""
