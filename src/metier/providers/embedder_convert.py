"""Turns the weights of multilingual-e5-small, once, into an ONNX graph and a vocabulary."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import orjson
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from metier.providers.embedder_frames import GRAPH, ORIGIN, VOCABULARY, origin
from metier.providers.embedder_tokens import save
from metier.providers.embedder_weights import BLOCK, Blocks, EncoderWeights, read

__all__ = ["convert"]

_CONTRIBUTED = "com.microsoft"


def convert(source: Path, sha256: str, folder: Path) -> None:
    """Write the graph and the vocabulary made from `source` into `folder`, which appears whole or not at all."""
    weights = read(source)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        onnx.save(_Graph(weights).build(), fresh / GRAPH)
        _vocabulary(weights, fresh / VOCABULARY)
        (fresh / ORIGIN).write_bytes(orjson.dumps(origin(sha256)))
        shutil.rmtree(folder, ignore_errors=True)
        fresh.replace(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _vocabulary(w: EncoderWeights, path: Path) -> None:
    special = {"begin": w.begin, "end": w.end, "pad": w.pad, "unknown": w.unknown, "positions": w.positions}
    save(path, w.pieces, special)


class _Graph:
    """Builds the encoder node by node; the matrices stay in their 4-bit blocks, so nothing is lost."""

    def __init__(self, weights: EncoderWeights) -> None:
        self._weights = weights
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []

    def build(self) -> ModelProto:
        w = self._weights
        x = self._node("Add", [self._words(), self._positions()])
        x = self._normalise(x, "emb.ln")
        mask = self._node("Cast", ["mask"], to=TensorProto.INT32)
        for layer in range(w.layers):
            x = self._layer(x, mask, f"l{layer}.")
        self._pool(x)
        graph = helper.make_graph(
            self._nodes,
            "multilingual-e5-small",
            [
                helper.make_tensor_value_info("ids", TensorProto.INT64, ["texts", "tokens"]),
                helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["texts", "tokens"]),
            ],
            [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["texts", w.width])],
            self._constants,
        )
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid(_CONTRIBUTED, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def _words(self) -> str:
        table = self._weights.blocks("emb.word", self._weights.width)
        signed = Blocks((table.values ^ 8).astype(np.uint8), table.scales)
        shape = list(table.values.shape)
        self._constants.append(helper.make_tensor("words", TensorProto.INT4, shape, signed.pairs().tobytes(), raw=True))
        scales = self._constant("words.scale", table.scales)
        return self._node(
            "GatherBlockQuantized", ["words", "ids", scales],
            domain=_CONTRIBUTED, gather_axis=0, quantize_axis=1, block_size=BLOCK,
        )  # fmt: skip

    def _positions(self) -> str:
        w = self._weights
        table = w.floats("emb.pos").reshape(-1, w.width) + w.floats("emb.type").reshape(-1, w.width)[0]
        length = self._node("Shape", ["ids"], start=1, end=2)
        zero = self._constant("zero", np.zeros(1, np.int64))
        return self._node("Slice", [self._constant("positions", table), zero, length, zero])

    def _layer(self, x: str, mask: str, layer: str) -> str:
        w = self._weights
        query, key, value = (self._linear(x, layer, name, w.width) for name in ("q", "k", "v"))
        attended = self._node(
            "MultiHeadAttention", [query, key, value, "", mask], domain=_CONTRIBUTED, num_heads=w.heads
        )
        x = self._normalise(self._node("Add", [x, self._linear(attended, layer, "ao", w.width)]), f"{layer}aln")
        inner = self._node("Gelu", [self._linear(x, layer, "fi", w.width)])
        return self._normalise(self._node("Add", [x, self._linear(inner, layer, "fo", w.inner)]), f"{layer}oln")

    def _pool(self, x: str) -> None:
        last, tokens = self._constant("last", np.array([-1])), self._constant("tokens", np.array([1]))
        kept = self._node("Mul", [x, self._node("Unsqueeze", ["mask", last])])
        total = self._node("ReduceSum", [kept, tokens], keepdims=0)
        self._node("LpNormalization", [total], out="vectors", axis=-1, p=2)

    def _linear(self, x: str, layer: str, name: str, inputs: int) -> str:
        matrix = self._weights.blocks(f"{layer}{name}.w", inputs)
        outputs, blocks = matrix.scales.shape
        packed = self._constant(f"{layer}{name}.w", matrix.pairs().reshape(outputs, blocks, BLOCK // 2))
        scales = self._constant(f"{layer}{name}.scale", matrix.scales.reshape(-1))
        bias = self._constant(f"{layer}{name}.b", self._weights.floats(f"{layer}{name}.b"))
        return self._node(
            "MatMulNBits", [x, packed, scales, "", "", bias],
            domain=_CONTRIBUTED, K=inputs, N=outputs, bits=4, block_size=BLOCK, accuracy_level=4,
        )  # fmt: skip

    def _normalise(self, x: str, name: str) -> str:
        weight, bias = (self._constant(f"{name}.{part}", self._weights.floats(f"{name}.{part}")) for part in "wb")
        return self._node("LayerNormalization", [x, weight, bias], epsilon=self._weights.epsilon)

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _node(self, operator: str, inputs: list[str], out: str | None = None, **attributes: Any) -> str:
        out = out or f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [out], **attributes))
        return out


if __name__ == "__main__":
    convert(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
