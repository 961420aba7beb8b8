"""Parameters to start a run from (``init``): those of an earlier run, of a file, or torchvision's for ResNet-18."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metarun.compat.torchvision import torchvision
from metarun.core.tree import Params
from metarun.errors import ConfigError, UserError, first_line
from metarun.files import read_file
from metarun.runs import checkpoint, zoo
from metarun.runs.held_out import IMAGENET, Trained, first
from metarun.runs.record import Record
from metarun.runs.setup import Setup
from metarun.runs.start import Start

TORCHVISION = "torchvision"  # the value of ``init`` that is no path
SHOWN = 3  # parameters that do not fit, in a message
ALLOWED = "a run folder, a file of parameters, or torchvision for its weights of ResNet-18"


@dataclass(frozen=True)
class Source:
    """Parameters that were found.

    Attributes:
        told: what they are, in words.
        params: the parameters, on the CPU.
        trained: everything that they were trained on, the latest training first.
    """

    told: str
    params: Params
    trained: list[Trained]


def read(where: str) -> Source:
    """Read the parameters that ``init`` names. No code of a file is run, and nothing is downloaded.

    Args:
        where: a run folder or ``zoo:NAME``, whose tested parameters are taken (best or last); a checkpoint of a run; a
            file that ``torch.save`` wrote of a ``state_dict``; a safetensors file; or ``torchvision``.

    Raises:
        UserError: there is nothing, or it holds no parameters.
    """
    path = _of_torchvision() if where == TORCHVISION else zoo.run_folder(where)
    if path.is_dir():
        return _of_run(path)
    data = read_file(path)
    if data is None:
        raise ConfigError("init", where, f"{ALLOWED}; nothing is there")
    content = _safetensors(path, data) if data[8:9] == b"{" else _torch(path, data)
    if isinstance(content, dict) and content.keys() == {"format", "sha256", "content"}:
        return _of_checkpoint(path)
    params = _tensors(content)
    if not params:
        raise ConfigError("init", path, f"{ALLOWED}; this file holds no tensors by name")
    if path.suffix == ".pth" and path.stem.endswith(f"-{hashlib.sha256(data).hexdigest()[:8]}"):
        what, kind = f"torchvision's {path.stem}", IMAGENET  # torchvision names its files by their content
    elif where == TORCHVISION:
        raise UserError(f"{path}: damaged (its content does not begin with the checksum in its name); remove it")
    else:
        what, kind = f"file {path.name}", None
    return Source(what, params, [Trained(what=what, kind=kind, settings={}, data=None, selected=False)])


def begin(setup: Setup, source: Source) -> tuple[Setup, Start]:
    """Let a run begin with the parameters that were found, as far as they fit.

    Args:
        setup: the experiment's parts.
        source: the parameters.

    Returns:
        The parts with these parameters in place of the first ones, and the list of what was taken and what was not.

    Raises:
        UserError: nothing of them fits the network, or they are not finite.
    """
    meta = setup.first_meta()
    mine, known_as = meta.flat(), setup.experiment.model.known_as
    frozen = {name for name, p in setup.module.named_parameters() if not p.requires_grad}
    taken, left = dict[str, Tensor](), dict[str, str]()
    for theirs, value in source.params.items():
        name = theirs if theirs in mine else known_as(theirs)
        if name in frozen:
            left[theirs] = "frozen in this network"
        elif name not in mine:
            left[theirs] = "this run has no such parameter"
        elif name in taken:
            left[theirs] = f"{name} was taken already"
        elif value.shape != mine[name].shape:
            left[theirs] = f"has shape {list(value.shape)}, and here {list(mine[name].shape)}"
        elif not value.is_floating_point():
            left[theirs] = f"is {str(value.dtype).removeprefix('torch.')}"
        elif not value.isfinite().all():
            raise UserError(f"init: {source.told}: {theirs} has values that are no finite numbers")
        else:
            taken[name] = value.to(mine[name])
    if not taken.keys() & meta.model.keys():
        why = "; ".join(f"{name}: {reason}" for name, reason in list(left.items())[:SHOWN])
        has = first([*meta.model])
        raise UserError(f"init: {source.told}: nothing of it fits the network ({why}); the network has {has}")
    taken = {name: taken[name] for name in mine if name in taken}
    start = Start(
        told=source.told,
        sha256=checkpoint.digest(taken),
        taken=list(taken),
        left=left,
        new=[name for name in mine if name not in taken],
        trained=source.trained,
    )
    return replace(setup, given=taken), start


def _of_torchvision() -> Path:
    """Return the path of torchvision's weights in the cache of torch hub."""
    url = torchvision().models.ResNet18_Weights.IMAGENET1K_V1.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if read_file(path) is None:
        raise UserError(f"init={TORCHVISION}: {path} is not there, and metarun downloads no weights; put {url} there")
    return path


def _of_run(run_dir: Path) -> Source:
    """Read the parameters that a run was or would be tested on: the best on validation, or the last."""
    record = Record.read(run_dir)
    if record is None:
        raise ConfigError("init", run_dir, f"{ALLOWED}; this folder has no config.json")
    tested, best = (checkpoint.folder(run_dir) / name for name in (checkpoint.TESTED, checkpoint.BEST))
    if read_file(tested) is not None:
        return _of_checkpoint(tested)
    if record.values["eval"]["select"] == "best" and read_file(best) is not None:
        return _of_checkpoint(best)
    last = checkpoint.folder(run_dir) / checkpoint.LAST
    if read_file(last) is None:
        raise UserError(f"init={run_dir}: this run has no checkpoint")
    return _of_checkpoint(last)


def _of_checkpoint(path: Path) -> Source:
    """Read the meta-parameters of a checkpoint; what they were trained on is known in its run folder only."""
    try:
        content = checkpoint.read(path)
    except checkpoint.Damaged as error:
        raise UserError(
            f"init: {error}; other parameters of a run can be named: init=RUN/checkpoints/last.pt"
        ) from None
    selected = "value" in content
    told = f"{'best on validation' if selected else 'last'}, meta-iteration {content['step']}"
    record = Record.read(path.parent.parent) if path.parent.name == checkpoint.folder(Path()).name else None
    if record is None:
        what = f"checkpoint {path.name} ({told})"
        return Source(what, content["meta"], [Trained(what=what, kind=None, settings={}, data=None, selected=selected)])
    x, run_dir = record.values, path.absolute().parent.parent
    what = f"{run_dir.name}: {record.names['algo']} on {record.names['dataset']}, seed {x['seed']} ({told})"
    mine = Trained(
        what=what,
        kind=record.kinds["dataset"],
        settings=x["dataset"],
        data=record.data,
        selected=selected or x["eval"].get("patience") is not None,  # then validation chose when to stop
    )
    return Source(what, content["meta"], [mine, *(record.start.trained if record.start else [])])


def _safetensors(path: Path, data: bytes) -> Params:
    try:
        from safetensors.torch import load
    except ImportError:
        raise UserError(
            f"init={path}: is a safetensors file, which needs: pip install 'metarun[safetensors]'"
        ) from None
    try:
        return load(data)
    except Exception as error:  # of kinds of its own
        raise UserError(f"init={path}: is no whole safetensors file ({first_line(error)})") from None


def _torch(path: Path, data: bytes) -> Any:
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds of error for a file that it did not write
        said = f"holds no plain parameters, or is damaged ({type(error).__name__}); save a state_dict, with torch.save"
        raise UserError(f"init={path}: {said}, or as safetensors") from None


def _tensors(content: Any) -> Params:
    """Find tensors by name: the content itself, or the one entry of it that holds any, as trainers write them."""
    if not isinstance(content, Mapping):
        return {}
    found = {name: value.detach() for name, value in content.items() if isinstance(value, Tensor)}
    if not found:
        inside = [_tensors(value) for value in content.values() if isinstance(value, Mapping)]
        holding = [params for params in inside if params]
        return holding[0] if len(holding) == 1 else {}
    wrapped = all(name.startswith("module.") for name in found)  # by DataParallel
    return {name.removeprefix("module.") if wrapped else name: value for name, value in found.items()}
