"""The formats in which a network is exported: what is written, and the few lines that load it without metarun."""

from __future__ import annotations

import enum
import io
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from metarun.errors import ConfigError, UserError, did_you_mean, first_line
from metarun.files import write_atomic, write_text
from metarun.learner.plain import plain

NETWORK, LOAD = "network.py", "load.py"


class Format(enum.Enum):
    """How weights are stored; the value is the file's name.

    Attributes:
        state_dict: torch's own file of tensors by name, and the network as Python source.
        safetensors: the same in the format of the safetensors library, which any framework reads.
        torch_export: network and weights as a graph of torch's operations (torch.export).
        onnx: network and weights in one file for ONNX Runtime and others.
    """

    state_dict = "model.pt"
    safetensors = "model.safetensors"
    torch_export = "model.pt2"
    onnx = "model.onnx"

    @staticmethod
    def of(name: str) -> Format:
        """Return the format of a name, after a look for the libraries that it needs.

        Raises:
            UserError: there is no such format, or a library is missing.
        """
        if name not in Format.__members__:
            known = ", ".join(Format.__members__)
            raise ConfigError("format", name, f"one of {known}{did_you_mean(name, Format.__members__)}")
        format = Format[name]
        try:
            format.libraries()
        except ImportError as error:
            raise UserError(f"format={name}: needs {error.name}: pip install 'metarun[{name}]'") from None
        return format

    def libraries(self) -> list[ModuleType]:
        """Import the libraries that it needs besides torch.

        Raises:
            ImportError: one is missing.
        """
        if self is Format.safetensors:
            import safetensors.torch

            return [safetensors.torch]
        if self is Format.onnx:
            import onnx
            import onnxruntime
            import onnxscript

            return [onnxruntime, onnx, onnxscript]
        return []

    @property
    def needs(self) -> str:
        """What loading needs, as one installs it."""
        return {Format.safetensors: "torch, safetensors", Format.onnx: "onnxruntime"}.get(self, "torch")

    def write(self, folder: Path, network: nn.Module, x: Tensor, metadata: dict[str, str]) -> None:
        """Write the network.

        Args:
            folder: where to.
            network: the network, in ``eval()``, on the CPU.
            x: [B, ...] examples, at least two.
            metadata: texts for the head of a safetensors file.

        Raises:
            UserError: this network cannot be written so.
            OSError: a file cannot be written.
        """
        path = folder / self.value
        if self in (Format.torch_export, Format.onnx):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of torch about its own parts
                    self._traced(path, network, x)
            except OSError:
                raise
            except Exception as error:  # of any kind: it depends on what the network does
                said = first_line(error).split(". ")[0]
                raise UserError(f"format={self.name}: torch cannot write this network so ({said})") from error
            return
        made = plain(network)
        write_text(folder / NETWORK, made.source)
        if self is Format.safetensors:
            (library,) = self.libraries()
            write_atomic(path, library.save(made.weights, metadata))
        else:
            data = io.BytesIO()
            torch.save(made.weights, data)
            write_atomic(path, data.getvalue())

    def _traced(self, path: Path, network: nn.Module, x: Tensor) -> None:
        shapes = ({0: torch.export.Dim("batch")},)
        if self is Format.torch_export:
            torch.export.save(torch.export.export(network, (x,), dynamic_shapes=shapes), path)
            return
        torch.onnx.export(
            network,
            (x,),
            path,
            input_names=["x"],
            output_names=["outputs"],
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=False,
            verbose=False,
        )

    def loading(self, x: Tensor) -> str:
        """Return the Python file that loads the network, which it calls ``network``.

        Args:
            x: [B, ...] examples.
        """
        kind, shape = str(x.dtype).removeprefix("torch."), ", ".join(map(str, ("B", *x.shape[1:])))
        imports, lines = {
            Format.state_dict: (
                ["import torch", "from network import Network"],
                [
                    "network = Network().eval()",
                    f'network.load_state_dict(torch.load(here / "{self.value}", weights_only=True))',
                ],
            ),
            Format.safetensors: (
                ["from network import Network", "from safetensors.torch import load_file"],
                ["network = Network().eval()", f'network.load_state_dict(load_file(here / "{self.value}"))'],
            ),
            Format.torch_export: (
                ["import torch"],
                [f'network = torch.export.load(here / "{self.value}").module()'],
            ),
            Format.onnx: (
                ["import onnxruntime"],
                [
                    f'session = onnxruntime.InferenceSession(here / "{self.value}")',
                    'network = lambda x: session.run(None, {"x": x})[0]  # noqa: E731',
                ],
            ),
        }[self]
        array = "an array" if self is Format.onnx else "a tensor"
        return "\n".join(
            [
                f'"""Needs {self.needs}: network(x) takes {array} x [{shape}], {kind}. README.md says of what."""',
                "import json",
                "from pathlib import Path",
                "",
                *imports,
                "",
                "here = Path(__file__).parent",
                *lines,
                'classes = json.loads((here / "classes.json").read_text(encoding="utf-8"))',
                "",
            ]
        )

    def given(self, x: Tensor) -> Any:
        """Return examples as the loaded network takes them."""
        return x.numpy() if self is Format.onnx else x
