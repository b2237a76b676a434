"""An MSD-net as an ONNX graph, in the form that a user exports and in one that suits the runtimes better.

Both take float32 (batch, channel, y, x) of any size and give logits (batch, class, y, x).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hrtem_dask.kernels.msdnet.weights import MSDWeights

__all__ = ["FORMS", "onnx_bytes"]

#: "exported": every layer is one convolution over all planes, joined by Concat, as exporting ``MSDNet.forward`` gives
#: it. "by dilation": after every ten layers one convolution a dilation brings the finished planes to ALL later layers
#: of that dilation; so the runtime meets several outputs at once and copies little
FORMS = ("exported", "by dilation")


def onnx_bytes(weights: MSDWeights, form: str = "exported") -> bytes:
    """Return the serialised model; zero padding only, which is what ONNX's Conv does by itself."""
    import onnx

    if weights.padding != "zeros" or form not in FORMS:
        raise ValueError(f"found the padding {weights.padding!r} and the form {form!r}; expected 'zeros', {FORMS}")
    graph = _Graph()
    planes = _exported(graph, weights) if form == "exported" else _by_dilation(graph, weights)
    graph.conv(planes, weights.final[:, :, None, None], weights.final_bias, 0, "logits")
    dims = {"image": ["n", weights.in_channels, "y", "x"], "logits": ["n", weights.out_channels, "y", "x"]}
    image, logits = (onnx.helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, v) for k, v in dims.items())
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "msdnet", [image], [logits], graph.constants),
        opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


class _Graph:
    """Nodes and constants of a graph that is being built."""

    def __init__(self) -> None:
        self.nodes: list = []
        self.constants: list = []

    def node(self, kind: str, inputs: Sequence[str], name: str = "", **attributes: object) -> str:
        import onnx

        name = name or f"v{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def outputs(self, kind: str, inputs: Sequence[str], n: int, **attributes: object) -> list[str]:
        import onnx

        names = [f"v{len(self.nodes)}_{k}" for k in range(n)]
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def constant(self, array: np.ndarray) -> str:
        import onnx

        name = f"c{len(self.constants)}"
        array = np.ascontiguousarray(array, np.int64 if array.dtype.kind == "i" else np.float32)
        self.constants.append(onnx.numpy_helper.from_array(array, name))
        return name

    def conv(self, x: str, kernel: np.ndarray, bias: np.ndarray | None, dilation: int, name: str = "") -> str:
        """Convolve with zero padding that keeps the size; dilation 0 is a 1x1 kernel."""
        inputs = [x, self.constant(kernel), *([] if bias is None else [self.constant(bias)])]
        return self.node("Conv", inputs, name, kernel_shape=list(kernel.shape[2:]), pads=[dilation] * 4,
                         dilations=[max(1, dilation)] * 2)


def _exported(graph: _Graph, weights: MSDWeights) -> str:
    x = "image"
    for kernel, bias, d in zip(weights.layers, weights.biases, weights.layer_dilations, strict=True):
        x = graph.node("Concat", [x, graph.node("Relu", [graph.conv(x, kernel, bias, d)])], axis=1)
    return x


def _by_dilation(graph: _Graph, weights: MSDWeights) -> str:
    """Ten layers at a time; ``given`` holds what the planes finished so far contribute to later layers."""
    period, w, depth = len(weights.dilations), weights.width, weights.depth
    given: dict[int, str] = {}
    blocks, channels = ["image"], (0, weights.in_channels)  # the channels of the newest block
    for start in range(0, depth, period):
        _bring(graph, weights, blocks[-1], channels, start, given)
        first, own = channels[1], []
        for i in range(start, min(start + period, depth)):
            total = given.pop(i)
            if own:
                kernel = weights.layers[i][:, first:first + len(own) * w]
                total = graph.node("Add", [total, graph.conv(_joined(graph, own), kernel, None,
                                                             weights.layer_dilations[i])])
            own.append(graph.node("Relu", [total]))
        blocks.append(_joined(graph, own))
        channels = first, first + len(own) * w
    return _joined(graph, blocks)


def _joined(graph: _Graph, planes: Sequence[str]) -> str:
    return planes[0] if len(planes) == 1 else graph.node("Concat", planes, axis=1)


def _bring(graph: _Graph, weights: MSDWeights, block: str, channels: tuple[int, int], start: int,
           given: dict[int, str]) -> None:
    """Add what one finished block contributes to every layer from ``start`` on, one convolution a dilation."""
    period, w = len(weights.dilations), weights.width
    for first in range(start, min(start + period, weights.depth)):
        layers = range(first, weights.depth, period)
        kernel = np.concatenate([weights.layers[i][:, slice(*channels)] for i in layers])
        bias = np.concatenate([weights.biases[i] for i in layers]) if channels[0] == 0 else None
        out = graph.conv(block, kernel, bias, weights.layer_dilations[first])
        parts = [out]
        if len(layers) > 1:
            sizes = graph.constant(np.full(len(layers), w, np.int64))
            parts = graph.outputs("Split", [out, sizes], len(layers), axis=1)
        for i, part in zip(layers, parts, strict=True):
            given[i] = part if i not in given else graph.node("Add", [given[i], part])
