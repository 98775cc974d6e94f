"""Vector files, import of released checkpoints, loading: what is right passes, what is wrong is named."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.files import file_sha256
from smartdj_agent.models import released, weights
from smartdj_agent.models.codec import Codec
from smartdj_agent.models.dit import EditDiT
from smartdj_agent.models.released import (
    TOLERANCE,
    TensorDifference,
    codec_from_release,
    editor_from_release,
    import_released,
    verify_vectors,
)
from smartdj_agent.models.weights import list_installed, load_network

COMPAT = next(
    (p / "shared" / "compat" for p in Path(__file__).resolve().parents if (p / "shared" / "compat").is_dir()), None
)

EDITOR = {
    "img_size": 11,
    "patch_size": 1,
    "in_chans": 8,
    "out_chans": 4,
    "input_type": "1d",
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "mlp_ratio": 2.0,
    "qkv_bias": False,
    "qk_norm": "layernorm",
    "norm_layer": "layernorm",
    "act_layer": "geglu",
    "context_norm": True,
    "time_fusion": "ada_sola_bias",
    "ada_sola_rank": 3,
    "ada_sola_alpha": 6,
    "context_dim": 10,
    "context_fusion": "cross",
    "context_pe_method": "none",
    "pe_method": "none",
    "rope_mode": "shared",
    "use_conv": True,
    "skip": True,
    "skip_norm": True,
}
CODEC = {
    "encoder": {"config": {"channels": 3, "c_mults": [1, 2], "strides": [2, 4], "latent_dim": 10}},
    "decoder": {"config": {"channels": 3, "c_mults": [1, 2], "strides": [2, 4], "latent_dim": 5}},
    "latent_dim": 5,
}
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
}

State = dict[str, Tensor]


# --- the same networks once more, as plain formulas over a state dict ------------------------------------


def linear(state: State, name: str, x: Tensor) -> Tensor:
    bias = state.get(f"{name}.bias")
    return x @ state[f"{name}.weight"].T + (0 if bias is None else bias)


def norm(state: State, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def attention(state: State, name: str, x: Tensor, context: Tensor, heads: int, rotary: bool) -> Tensor:
    def split(part: str, values: Tensor) -> Tensor:
        return torch.stack(linear(state, f"{name}.to_{part}", values).chunk(heads, dim=-1), dim=1)

    q, k, v = norm(state, f"{name}.norm_q", split("q", x)), norm(state, f"{name}.norm_k", split("k", context)), None
    v = split("v", context)
    if rotary:
        size = q.shape[-1]
        angles = torch.arange(q.shape[2])[:, None] * 10000.0 ** (-torch.arange(0, size, 2) / size)
        turn = torch.polar(torch.ones_like(angles), angles)

        def turned(values: Tensor) -> Tensor:
            pairs = torch.complex(values[..., : size // 2], values[..., size // 2 :]) * turn
            return torch.cat([pairs.real, pairs.imag], dim=-1)

        q, k = turned(q), turned(k)
    weight = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    return linear(state, f"{name}.proj", torch.cat((weight @ v).unbind(1), dim=-1))


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def editor_formula(state: State, config: dict, x: Tensor, times: Tensor, context: Tensor) -> Tensor:
    heads, scaling = config["num_heads"], config["ada_sola_alpha"] / config["ada_sola_rank"]
    angle = times.float()[:, None] * torch.exp(-math.log(10000) * torch.arange(128) / 128)
    wave = torch.cat([angle.cos(), angle.sin()], dim=1)
    tau = silu(linear(state, "time_embed.mlp.2", silu(linear(state, "time_embed.mlp.0", wave))))
    shared = linear(state, "time_ada", tau)
    text = linear(state, "context_embed.2", silu(linear(state, "context_embed.0", context)))

    def block(name: str, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if skip is not None:
            both = norm(state, f"{name}.skip_norm", torch.cat([x, skip], dim=-1))
            x = linear(state, f"{name}.skip_linear", both)
        low = linear(state, f"{name}.adaln.lora_b", linear(state, f"{name}.adaln.lora_a", tau))
        table = state[f"{name}.adaln.scale_shift_table"] + (shared + scaling * low).unflatten(1, (6, -1))
        shift1, scale1, gate1, shift2, scale2, gate2 = (row[:, None] for row in table.unbind(1))
        h = norm(state, f"{name}.norm1", x) * (1 + scale1) + shift1
        x = x + (1 - gate1) * attention(state, f"{name}.attn", h, h, heads, True)
        q, kv = norm(state, f"{name}.norm2", x), norm(state, f"{name}.norm_context", text)
        x = x + attention(state, f"{name}.cross_attn", q, kv, heads, False)
        h = norm(state, f"{name}.norm3", x) * (1 + scale2) + shift2
        value, gate = linear(state, f"{name}.mlp.net.0.proj", h).chunk(2, dim=-1)
        gelu = gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2)))
        return x + (1 - gate2) * linear(state, f"{name}.mlp.net.2", value * gelu)

    x = functional.conv1d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]).transpose(1, 2)
    skips = []
    for index in range(config["depth"] // 2):
        x = block(f"in_blocks.{index}", x)
        skips.append(x)
    x = block("mid_block", x)
    for index in range(config["depth"] // 2):
        x = block(f"out_blocks.{index}", x, skips.pop())
    shift, scale = linear(state, "time_ada_final", tau)[:, None].chunk(2, dim=-1)
    x = linear(state, "final_block.linear", norm(state, "final_block.norm", x) * (1 + scale) + shift)
    kernel = state["final_block.final_layer.weight"]
    return functional.conv1d(x.transpose(1, 2), kernel, state["final_block.final_layer.bias"], padding=1)


def codec_formula(state: State, part: str, strides: list[int], x: Tensor) -> Tensor:
    def weight(name: str) -> Tensor:
        v = state[f"{name}.weight_v"]
        return state[f"{name}.weight_g"] * v / v.square().sum((1, 2), keepdim=True).sqrt()

    def conv(name: str, x: Tensor, **options: int) -> Tensor:
        return functional.conv1d(x, weight(name), state.get(f"{name}.bias"), **options)

    def snake(name: str, x: Tensor) -> Tensor:
        a, b = state[f"{name}.alpha"].exp()[:, None], state[f"{name}.beta"].exp()[:, None]
        return x + torch.sin(a * x) ** 2 / (b + 1e-9)

    def unit(name: str, x: Tensor, d: int) -> Tensor:
        h = conv(f"{name}.1", snake(f"{name}.0", x), dilation=d, padding=3 * d)
        return x + conv(f"{name}.3", snake(f"{name}.2", h))

    x = conv(f"{part}.layers.0", x, padding=3)
    for index, stride in enumerate(strides, 1):
        name, pad = f"{part}.layers.{index}.layers", (stride + 1) // 2
        if part == "encoder":
            for slot, d in enumerate((1, 3, 9)):
                x = unit(f"{name}.{slot}.layers", x, d)
            x = conv(f"{name}.4", snake(f"{name}.3", x), stride=stride, padding=pad)
        else:
            x = snake(f"{name}.0", x)
            x = functional.conv_transpose1d(x, weight(f"{name}.1"), state[f"{name}.1.bias"], stride, pad)
            for slot, d in enumerate((1, 3, 9)):
                x = unit(f"{name}.{slot + 2}.layers", x, d)
    last = len(strides) + 1
    x = snake(f"{part}.layers.{last}", x)
    return conv(f"{part}.layers.{last + 1}", x, padding=1 if part == "encoder" else 3)


def sampling_formula(state: State, config: dict, source: Tensor, noise: Tensor, p: Tensor, n: Tensor, steps: int):
    """DDIM with η 0 on the released schedule, guidance 4 rescaled at 0.8."""
    root = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    bar = torch.cumprod(1 - root, 0).sqrt()
    bar = ((bar - bar[-1]) * bar[0] / (bar[0] - bar[-1])) ** 2
    x = noise
    for index in range(steps):
        t = round(1000 - index * 1000 / steps) - 1
        before = t - 1000 // steps
        now, then = bar[t].float(), bar[before].float() if before >= 0 else torch.tensor(1.0)
        stacked = torch.cat([x, source], dim=1)
        yes, no = (editor_formula(state, config, stacked, torch.full((len(x),), t), c) for c in (p, n))
        g = no + 4 * (yes - no)
        v = 0.8 * g * yes.std((1, 2), keepdim=True) / g.std((1, 2), keepdim=True) + 0.2 * g
        clean = now.sqrt() * x - (1 - now).sqrt() * v
        rest = now.sqrt() * v + (1 - now).sqrt() * x
        x = then.sqrt() * clean + (1 - then).sqrt() * rest
    return x


# --- files ------------------------------------------------------------------------------------------------


def random_state(model: torch.nn.Module, seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        key: value.clone()
        if key.endswith("inv_freq")
        else (1.0 if key.endswith("weight_g") else 0.3) * torch.randn(value.shape, generator=generator)
        for key, value in model.state_dict().items()
    }


def editor_vectors(folder: Path) -> tuple[State, dict[str, str]]:
    state = random_state(editor_from_release(EDITOR), 1)
    generator = torch.Generator().manual_seed(2)
    x, context = torch.randn(2, 8, 11, generator=generator), torch.randn(2, 6, 10, generator=generator)
    times = torch.tensor([3, 777])
    tensors = {f"state.{key}": value for key, value in state.items()}
    tensors |= {"in.x": x, "in.timesteps": times, "in.context": context}
    tensors["out.y"] = editor_formula(state, EDITOR, x, times, context)
    metadata = {"config": json.dumps(EDITOR)}
    save_file(tensors, folder / "editor.safetensors", metadata)
    return tensors, metadata


def codec_vectors(folder: Path) -> tuple[State, dict[str, str]]:
    state = random_state(codec_from_release(CODEC), 3)
    audio = torch.randn(2, 1, 40, generator=torch.Generator().manual_seed(4))
    mean, scale = codec_formula(state, "encoder", [2, 4], audio).chunk(2, dim=1)
    tensors = {f"state.{key}": value for key, value in state.items()}
    tensors |= {"in.audio": audio, "out.mean": mean.contiguous(), "out.scale_raw": scale.contiguous()}
    tensors["out.decoded_from_mean"] = codec_formula(state, "decoder", [4, 2], mean)
    metadata = {"config": json.dumps(CODEC)}
    save_file(tensors, folder / "codec.safetensors", metadata)
    return tensors, metadata


def sampling_vectors(folder: Path, steps: int = 4) -> tuple[State, dict[str, str]]:
    editor, _ = editor_vectors(folder)
    state = {key.removeprefix("state."): value for key, value in editor.items() if key.startswith("state.")}
    generator = torch.Generator().manual_seed(5)
    source, noise = torch.randn(2, 1, 4, 11, generator=generator)
    p, n = torch.randn(2, 1, 6, 10, generator=generator)
    tensors = {"in.source_latent": source, "in.noise": noise, "in.context_cond": p, "in.context_uncond": n}
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    tensors["out.latent"] = sampling_formula(state, EDITOR, source, noise, p, n, steps)
    metadata = {
        "scheduler": json.dumps(SCHEDULER),
        "weights": "editor.safetensors",
        "steps": str(steps),
        "eta": "0",
        "guidance_scale": "4.0",
        "guidance_rescale": "0.8",
    }
    save_file(tensors, folder / "sampling.safetensors", metadata)
    return tensors, metadata


def code_of(call) -> ErrorCode:
    with pytest.raises(SmartDJError) as caught:
        call()
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value.code


# --- verify_vectors ---------------------------------------------------------------------------------------


def test_plain_formulas_agree(tmp_path: Path) -> None:
    codec_vectors(tmp_path)
    sampling_vectors(tmp_path)
    found = {(d.file, d.tensor): d for d in verify_vectors(tmp_path)}
    assert set(found) == {
        ("codec.safetensors", "out.mean"),
        ("codec.safetensors", "out.scale_raw"),
        ("codec.safetensors", "out.decoded_from_mean"),
        ("editor.safetensors", "out.y"),
        ("sampling.safetensors", "out.latent"),
    }
    assert all(difference.equal for difference in found.values()), found


def test_a_count_that_does_not_divide_1000_is_followed(tmp_path: Path) -> None:
    sampling_vectors(tmp_path, steps=6)
    assert all(difference.equal for difference in verify_vectors(tmp_path))


@pytest.mark.parametrize("name", ["out.mean", "out.scale_raw", "out.decoded_from_mean"])
def test_a_perturbed_output_is_reported(tmp_path: Path, name: str) -> None:
    tensors, metadata = codec_vectors(tmp_path)
    tensors[name].view(-1)[3] += 0.25
    save_file(tensors, tmp_path / "codec.safetensors", metadata)
    found = {d.tensor: d for d in verify_vectors(tmp_path)}
    assert not found[name].equal
    assert found[name].max_abs_difference == pytest.approx(0.25, abs=1e-3)


def test_other_weights_are_noticed(tmp_path: Path) -> None:
    tensors, metadata = editor_vectors(tmp_path)
    tensors["state.mid_block.attn.to_v.weight"] = tensors["state.mid_block.attn.to_v.weight"] + 0.1
    save_file(tensors, tmp_path / "editor.safetensors", metadata)
    (difference,) = verify_vectors(tmp_path)
    assert not difference.equal


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_unequal(tmp_path: Path, value: float) -> None:
    tensors, metadata = editor_vectors(tmp_path)
    tensors["out.y"].view(-1)[0] = value
    save_file(tensors, tmp_path / "editor.safetensors", metadata)
    assert not verify_vectors(tmp_path)[0].equal
    tensors, metadata = editor_vectors(tmp_path)
    tensors["state.final_block.linear.bias"][0] = value
    save_file(tensors, tmp_path / "editor.safetensors", metadata)
    assert not verify_vectors(tmp_path)[0].equal


def test_tolerance() -> None:
    assert TensorDifference("f", "t", TOLERANCE).equal
    assert not TensorDifference("f", "t", 1.01 * TOLERANCE).equal
    assert not TensorDifference("f", "t", math.nan).equal


def test_another_shape_is_unequal(tmp_path: Path) -> None:
    tensors, metadata = editor_vectors(tmp_path)
    tensors["out.y"] = tensors["out.y"][:1].clone()
    save_file(tensors, tmp_path / "editor.safetensors", metadata)
    assert verify_vectors(tmp_path)[0].max_abs_difference == math.inf


def damaged(kind: str, tensors: State, metadata: dict[str, str]) -> None:
    key = "state.final_block.linear.bias"
    if kind == "missing key":
        del tensors[key]
    elif kind == "unknown key":
        tensors["state.extra.weight"] = torch.zeros(2)
    elif kind == "other shape":
        tensors[key] = torch.zeros(9)
    elif kind == "missing input":
        del tensors["in.timesteps"]
    elif kind == "input of another size":
        tensors["in.context"] = torch.zeros(2, 6, 11)
    elif kind == "unknown output":
        tensors["out.z"] = torch.zeros(2)
    elif kind == "missing output":
        del tensors["out.y"]
    elif kind == "no inputs":
        for name in ("in.x", "in.timesteps", "in.context"):
            del tensors[name]
    elif kind == "no config":
        del metadata["config"]
    elif kind == "config lacks a value":
        metadata["config"] = json.dumps({key: value for key, value in EDITOR.items() if key != "embed_dim"})
    elif kind == "other design":
        metadata["config"] = json.dumps(EDITOR | {"qkv_bias": True})
    elif kind == "no source half":
        metadata["config"] = json.dumps(EDITOR | {"in_chans": 4})


@pytest.mark.parametrize(
    "kind",
    [
        "missing key",
        "unknown key",
        "other shape",
        "missing input",
        "input of another size",
        "unknown output",
        "missing output",
        "no inputs",
        "no config",
        "config lacks a value",
        "other design",
        "no source half",
    ],
)
def test_vectors_that_do_not_fit(tmp_path: Path, kind: str) -> None:
    tensors, metadata = editor_vectors(tmp_path)
    damaged(kind, tensors, metadata)
    save_file(tensors, tmp_path / "editor.safetensors", metadata)
    assert code_of(lambda: verify_vectors(tmp_path)) is ErrorCode.MODEL_MISMATCH


@pytest.mark.parametrize("drop", ["out.mean", "in.audio"])
def test_codec_vectors_that_lack_a_tensor(tmp_path: Path, drop: str) -> None:
    tensors, metadata = codec_vectors(tmp_path)
    del tensors[drop]
    save_file(tensors, tmp_path / "codec.safetensors", metadata)
    assert code_of(lambda: verify_vectors(tmp_path)) is ErrorCode.MODEL_MISMATCH


def test_sampling_vectors_without_their_editor(tmp_path: Path) -> None:
    sampling_vectors(tmp_path)
    (tmp_path / "editor.safetensors").unlink()
    assert code_of(lambda: verify_vectors(tmp_path)) is ErrorCode.MODEL_CORRUPT


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    editor_vectors(tmp_path)
    path = tmp_path / "editor.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert code_of(lambda: verify_vectors(tmp_path)) is ErrorCode.MODEL_CORRUPT


def test_nothing_to_verify(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no vectors")
    for folder in (tmp_path, tmp_path / "none", tmp_path / "notes.txt"):
        assert code_of(lambda folder=folder: verify_vectors(folder)) is ErrorCode.USAGE


def test_shape_lists(tmp_path: Path) -> None:
    shapes = {key: list(value.shape) for key, value in editor_from_release(EDITOR).state_dict().items()}
    path = tmp_path / "editor_shapes.json"
    path.write_text(json.dumps({"config": {"model": EDITOR}, "shapes": shapes}))
    found = verify_vectors(tmp_path)
    assert len(found) == len(shapes)
    assert all(difference.equal for difference in found)
    wrong = {**shapes, "extra": [1], "time_ada.bias": [7]}
    del wrong["time_ada.weight"]
    path.write_text(json.dumps({"config": {"model": EDITOR}, "shapes": wrong}))
    unequal = {difference.tensor for difference in verify_vectors(tmp_path) if not difference.equal}
    assert unequal == {"extra", "time_ada.bias", "time_ada.weight"}
    shapes = {key: list(value.shape) for key, value in codec_from_release(CODEC).state_dict().items()}
    path.write_text(json.dumps({"config": CODEC, "shapes": shapes}))
    assert all(difference.equal for difference in verify_vectors(tmp_path))


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("{", ErrorCode.MODEL_CORRUPT),
        ("[]", ErrorCode.MODEL_MISMATCH),
        ("{}", ErrorCode.MODEL_MISMATCH),
        ('{"config": {}}', ErrorCode.MODEL_MISMATCH),
        ('{"config": {}, "shapes": {}}', ErrorCode.MODEL_MISMATCH),
    ],
)
def test_other_json_files(tmp_path: Path, content: str, code: ErrorCode) -> None:
    (tmp_path / "shapes.json").write_text(content)
    assert code_of(lambda: verify_vectors(tmp_path)) is code


@pytest.mark.skipif(COMPAT is None, reason="the given vectors are not here")
def test_the_given_vectors() -> None:
    assert COMPAT is not None
    found = verify_vectors(COMPAT)
    assert len(found) > 1000
    assert [difference for difference in found if not difference.equal] == []


# --- import and loading -----------------------------------------------------------------------------------


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    monkeypatch.setenv("SMARTDJ_MODELS", str(folder))
    monkeypatch.setattr(weights, "SHIPPED", tmp_path / "shipped")
    small_editor, small_codec = editor_from_release(EDITOR).config, codec_from_release(CODEC).config
    editor_sizes = {k: v for k, v in small_editor.items() if not k.startswith("_")}
    codec_sizes = {k: v for k, v in small_codec.items() if not k.startswith("_")}
    monkeypatch.setattr(released, "EditDiT", lambda **given: EditDiT(**(given or editor_sizes)))
    monkeypatch.setattr(released, "Codec", lambda **given: Codec(**(given or codec_sizes)))
    return folder


def release(folder: Path) -> tuple[Path, Path, State, State]:
    editor = random_state(editor_from_release(EDITOR), 7)
    codec = random_state(codec_from_release(CODEC), 8)
    torch.save({"model": editor, "epoch": 3}, folder / "editor.pt")
    whole = {f"autoencoder.{key}": value for key, value in codec.items()}
    torch.save({"state_dict": {**whole, "discriminator.w": torch.zeros(3)}, "version": "2.1"}, folder / "codec.ckpt")
    return folder / "editor.pt", folder / "codec.ckpt", editor, codec


def leftovers(models: Path) -> list[str]:
    return sorted(str(path.relative_to(models / "paper")) for path in (models / "paper").rglob("*"))


def test_released_files_become_a_preset(tmp_path: Path, models: Path) -> None:
    editor_file, codec_file, editor, codec = release(tmp_path)
    infos = import_released([editor_file, codec_file])
    assert {info.name for info in infos} == {"paper/editor", "paper/codec"}
    assert infos == list_installed()
    for role, state in (("editor", editor), ("codec", codec)):
        loaded = load_network("paper", role)
        own = loaded.state_dict()
        assert own.keys() == state.keys()
        assert all(torch.equal(own[key], state[key]) for key in state)
        assert not loaded.training
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
    info = next(info for info in infos if info.role == "editor")
    assert info.parameters == sum(value.numel() for value in editor.values())
    assert info.size_bytes == info.path.stat().st_size
    assert info.sha256 == file_sha256(info.path)
    assert {path.split(os.sep)[0] for path in leftovers(models)} == {"editor", "codec"}


def test_a_second_import_replaces_the_first(tmp_path: Path, models: Path) -> None:
    editor_file, _, editor, _ = release(tmp_path)
    import_released([editor_file])
    editor["time_ada.bias"] = editor["time_ada.bias"] + 1
    torch.save({"model": editor}, editor_file)
    (info,) = import_released([editor_file])
    assert torch.equal(load_file(info.path)["time_ada.bias"], editor["time_ada.bias"])


class Payload:
    """A pickle that would run code."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def test_a_pickle_with_code_is_refused(tmp_path: Path, models: Path) -> None:
    mark = tmp_path / "code-ran"
    bad = tmp_path / "bad.pt"
    torch.save({"model": Payload(mark)}, bad)
    assert code_of(lambda: import_released([bad])) is ErrorCode.MODEL_CORRUPT
    assert not mark.exists()
    assert leftovers(models) == []


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({"weights": {}}, ErrorCode.MODEL_MISMATCH),
        ({"model": {}}, ErrorCode.MODEL_MISMATCH),
        ({"model": {"x": 3}}, ErrorCode.MODEL_MISMATCH),
        ({"model": 3}, ErrorCode.MODEL_MISMATCH),
        ({"state_dict": {"encoder.x": torch.zeros(1)}}, ErrorCode.MODEL_MISMATCH),
        ({"state_dict": [1]}, ErrorCode.MODEL_MISMATCH),
        (torch.zeros(3), ErrorCode.MODEL_MISMATCH),
        ([1, 2], ErrorCode.MODEL_MISMATCH),
        (7, ErrorCode.MODEL_MISMATCH),
    ],
)
def test_other_checkpoints_are_refused(tmp_path: Path, models: Path, content: object, code: ErrorCode) -> None:
    torch.save(content, tmp_path / "file.pt")
    assert code_of(lambda: import_released([tmp_path / "file.pt"])) is code
    assert leftovers(models) == []


def test_damaged_and_missing_files(tmp_path: Path, models: Path) -> None:
    editor_file, _, _, _ = release(tmp_path)
    assert code_of(lambda: import_released([tmp_path / "none.pt"])) is ErrorCode.MODEL_MISSING
    assert code_of(lambda: import_released([tmp_path])) is ErrorCode.MODEL_MISMATCH
    content = editor_file.read_bytes()
    for size in (0, 10, len(content) // 2):
        editor_file.write_bytes(content[:size])
        assert code_of(lambda: import_released([editor_file])) is ErrorCode.MODEL_CORRUPT
    assert leftovers(models) == []


def test_a_bad_second_file_installs_nothing(tmp_path: Path, models: Path) -> None:
    editor_file, codec_file, _, codec = release(tmp_path)
    del codec["encoder.layers.0.bias"]
    torch.save({"state_dict": {f"autoencoder.{key}": value for key, value in codec.items()}}, codec_file)
    assert code_of(lambda: import_released([editor_file, codec_file])) is ErrorCode.MODEL_MISMATCH
    assert leftovers(models) == []


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor_file, _, _, _ = release(tmp_path)
    import_released([editor_file])
    before = leftovers(models)

    def fail(self: EditDiT, folder: Path) -> None:
        (Path(folder) / "half.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EditDiT, "save_pretrained", fail)
    assert code_of(lambda: import_released([editor_file])) is ErrorCode.DISK_FULL
    assert leftovers(models) == before
    load_network("paper", "editor")


def test_loading_notices_damage(tmp_path: Path, models: Path) -> None:
    editor_file, _, _, _ = release(tmp_path)
    assert code_of(lambda: load_network("paper", "editor")) is ErrorCode.MODEL_MISSING
    (info,) = import_released([editor_file])
    whole, settings = info.path.read_bytes(), (info.path.parent / "config.json").read_text()
    tensors = {key: value.clone() for key, value in load_file(info.path).items()}  # not mapped from the file

    info.path.write_bytes(whole[: len(whole) // 2])
    assert code_of(lambda: load_network("paper", "editor")) is ErrorCode.MODEL_CORRUPT
    assert code_of(list_installed) is ErrorCode.MODEL_CORRUPT

    save_file({k: v for k, v in tensors.items() if k != "time_ada.weight"}, info.path, {"format": "pt"})
    assert code_of(lambda: load_network("paper", "editor")) is ErrorCode.MODEL_CORRUPT

    save_file({**tensors, "time_ada.weight": torch.zeros(3, 3)}, info.path, {"format": "pt"})
    assert code_of(lambda: load_network("paper", "editor")) is ErrorCode.MODEL_CORRUPT

    info.path.write_bytes(whole)
    (info.path.parent / "config.json").write_text(settings[:-9])
    assert code_of(lambda: load_network("paper", "editor")) is ErrorCode.MODEL_CORRUPT
    (info.path.parent / "config.json").write_text(settings)
    load_network("paper", "editor")
