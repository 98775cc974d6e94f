"""Codec and editor network: shapes, formulas, equivalences, layout of the released files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from smartdj_agent.models.codec import Codec, ResidualUnit, SnakeBeta, WeightNormConv, kl_divergence, sample_posterior
from smartdj_agent.models.dit import EditDiT
from training.codec import CodecTask, filter_bank

COMPAT = Path(__file__).resolve().parents[2] / "shared" / "compat"
if not COMPAT.is_dir():
    COMPAT = Path(__file__).resolve().parents[3] / "shared" / "compat"


def small_codec(**settings) -> Codec:
    torch.manual_seed(0)
    defaults = {"channels": 4, "multiples": (1, 2), "strides": (2, 6), "latent_dim": 3}
    return Codec(**{**defaults, **settings}).eval()


def small_editor(**settings) -> EditDiT:
    torch.manual_seed(0)
    sizes = {"latent_dim": 6, "width": 16, "depth": 4, "heads": 2, "mlp_ratio": 2.0, "rank": 2, "alpha": 4.0}
    model = EditDiT(**{**sizes, "context_width": 10, **settings})
    # A fresh editor ignores text and time; randomised, every part matters.
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def inputs(batch: int = 3, length: int = 7, tokens: int = 5) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    noisy, source = torch.randn(2, batch, 6, length, generator=generator)
    return noisy, source, torch.tensor([0, 400, 999])[:batch], torch.randn(batch, tokens, 10, generator=generator)


class TestCodec:
    def test_every_length(self) -> None:
        codec = small_codec()
        assert codec.hop == 12
        with torch.no_grad():
            for n in range(1, 2 * codec.hop + 1):
                latent = codec.encode_stereo(torch.randn(2, 2, n))
                frames = -(-n // codec.hop)
                assert latent.shape == (2, 6, frames)
                assert codec.decode_stereo(latent).shape == (2, 2, frames * codec.hop)

    @pytest.mark.parametrize("strides", [(2, 4), (10, 2), (4, 6)])
    def test_even_strides_keep_lengths(self, strides: tuple[int, ...]) -> None:
        codec = small_codec(strides=strides)
        with torch.no_grad():
            assert codec.encode_stereo(torch.randn(1, 2, 3 * codec.hop)).shape[-1] == 3
            assert codec.decode_stereo(torch.randn(1, 6, 3)).shape[-1] == 3 * codec.hop

    def test_stereo_order(self) -> None:
        codec = small_codec(latent_mean=(0.1, -0.2, 0.3), latent_std=(1.0, 2.0, 0.5))
        wave = torch.randn(2, 2, 48)
        with torch.no_grad():
            latent, swapped = codec.encode_stereo(wave), codec.encode_stereo(wave.flip(1))
            assert torch.equal(swapped, torch.cat([latent[:, 3:], latent[:, :3]], dim=1))
            assert not torch.allclose(latent[:, 3:], latent[:, :3])
            torch.testing.assert_close(codec.decode_stereo(swapped), codec.decode_stereo(latent).flip(1))
            # Left first: the first half is the left ear's mean alone.
            mean, _ = codec.posterior(wave[:, :1])
            torch.testing.assert_close(latent[:, :3], codec.normalise(mean))

    def test_normalise_and_restore(self) -> None:
        codec = small_codec(latent_mean=(1.0, -2.0, 3.0), latent_std=(0.5, 2.0, 4.0))
        latent = torch.randn(2, 3, 5)
        torch.testing.assert_close(codec.restore(codec.normalise(latent)), latent)
        expected = (latent[:, 1] + 2.0) / 2.0
        torch.testing.assert_close(codec.normalise(latent)[:, 1], expected)
        plain = small_codec()
        assert plain.normalise(latent) is latent
        assert plain.restore(latent) is latent

    def test_saved_and_loaded_bit_for_bit(self, tmp_path: Path) -> None:
        codec = small_codec(latent_mean=(1.0, -2.0, 3.0), latent_std=(0.5, 2.0, 4.0))
        codec.save_pretrained(tmp_path)
        loaded = Codec.from_pretrained(tmp_path, local_files_only=True, low_cpu_mem_usage=False).eval()
        own, theirs = codec.state_dict(), loaded.state_dict()
        assert own.keys() == theirs.keys()
        assert all(torch.equal(own[key], theirs[key]) for key in own)
        assert loaded.hop == codec.hop
        wave = torch.randn(1, 2, 31)
        with torch.no_grad():
            assert torch.equal(codec.encode_stereo(wave), loaded.encode_stereo(wave))

    @pytest.mark.parametrize("transposed", [False, True])
    def test_weight_norm(self, transposed: bool) -> None:
        torch.manual_seed(2)
        ours = WeightNormConv(3, 5, 4, stride=2, padding=1, transposed=transposed)
        plain = (torch.nn.ConvTranspose1d if transposed else torch.nn.Conv1d)(3, 5, 4, stride=2, padding=1)
        theirs = torch.nn.utils.parametrizations.weight_norm(plain)
        with torch.no_grad():
            ours.weight_g.mul_(torch.rand_like(ours.weight_g) + 0.5)
            theirs.parametrizations.weight.original0.copy_(ours.weight_g)
            theirs.parametrizations.weight.original1.copy_(ours.weight_v)
            theirs.bias.copy_(ours.bias)
            x = torch.randn(2, 3, 10)
            torch.testing.assert_close(ours.weight(), theirs.weight)
            torch.testing.assert_close(ours(x), theirs(x))

    def test_snake_gives_the_same_bits_with_and_without_gradients(self) -> None:
        snake = SnakeBeta(3)
        with torch.no_grad():
            snake.alpha.uniform_(-1, 1)
            snake.beta.uniform_(-1, 1)
        x = torch.randn(2, 3, 50)
        given = x.clone()
        trained = snake(x)
        with torch.inference_mode():
            inferred = snake(x)
        assert trained.requires_grad
        assert torch.equal(inferred, trained)
        assert torch.equal(x, given)  # in place means its own memory, never the input's

    def test_snake_and_residual_unit(self) -> None:
        snake = SnakeBeta(2)
        with torch.no_grad():
            snake.alpha.copy_(torch.tensor([0.0, 1.0]))
            snake.beta.copy_(torch.tensor([0.5, -1.0]))
            x = torch.randn(1, 2, 9)
            for channel, (a, b) in enumerate([(0.0, 0.5), (1.0, -1.0)]):
                row = x[:, channel]
                expected = row + torch.sin(row * torch.tensor(a).exp()) ** 2 / (torch.tensor(b).exp() + 1e-9)
                torch.testing.assert_close(snake(x)[:, channel], expected)
            for dilation in (1, 3, 9):
                assert ResidualUnit(2, dilation)(torch.randn(1, 2, 30)).shape == (1, 2, 30)

    def test_posterior_formulas(self) -> None:
        mean, scale = torch.randn(2, 4, 3, 6)
        deviation = torch.log1p(scale.exp()) + 1e-4
        noise = torch.randn(4, 3, 6)
        torch.testing.assert_close(sample_posterior(mean, scale, noise), mean + deviation * noise)
        expected = (mean**2 + deviation**2 - 2 * deviation.log() - 1).sum(1).mean()
        torch.testing.assert_close(kl_divergence(mean, scale), expected)
        # Twice the divergence from a standard normal: zero where the posterior is one.
        one = torch.full((1, 3, 2), torch.expm1(torch.tensor(1.0 - 1e-4)).log().item())
        assert kl_divergence(torch.zeros(1, 3, 2), one).abs() < 1e-6

    def test_a_filter_bank_keeps_low_bands_and_loses_high_ones(self) -> None:
        torch.manual_seed(0)
        codec = Codec(channels=8, multiples=(2, 4), strides=(4, 6), latent_dim=12).eval()
        filter_bank(codec)
        at = torch.arange(2400) / codec.config.sample_rate
        with torch.no_grad():
            # 12 of 24 bands reach up to 6 kHz.
            for hertz, kept in ((300.0, True), (2500.0, True), (9000.0, False)):
                wave = 0.5 * (2 * math.pi * hertz * at).sin().expand(1, 2, -1)
                back = codec.decode_stereo(codec.encode_stereo(wave))
                inside = slice(48, -48)
                error = (back - wave)[..., inside].square().mean() / wave[..., inside].square().mean()
                assert error < 0.003 if kept else error > 0.9
            _, scale = codec.posterior(wave[:, :1])
        assert functional.softplus(scale).max() < 0.01

    def test_a_filter_bank_needs_room_for_its_samples(self) -> None:
        with pytest.raises(ValueError, match="can't hold"):
            filter_bank(Codec(channels=2, multiples=(1, 2), strides=(4, 6), latent_dim=4))

    def test_a_power_leaves_gains_factors_and_is_undone(self) -> None:
        codec = small_codec(latent_power=0.5, latent_mean=(0.0, 0.0, 0.0), latent_std=(0.5, 2.0, 4.0))
        latent = torch.randn(2, 3, 5)
        torch.testing.assert_close(codec.restore(codec.normalise(latent)), latent)
        torch.testing.assert_close(codec.normalise(0.25 * latent), 0.5 * codec.normalise(latent))
        torch.testing.assert_close(codec.normalise(-latent), -codec.normalise(latent))

    def test_a_collapsed_feature_keeps_latents_finite(self, tmp_path: Path) -> None:
        task = CodecTask.__new__(CodecTask)
        task.model = small_codec()
        with torch.no_grad():
            last = task.model.encoder.layers[-1]
            last.weight_g[1] = 1e-9
        task.validation = torch.randn(2, 2, 240)
        task.save(tmp_path)
        assert task.model.config.latent_mean is None
        loaded = Codec.from_pretrained(tmp_path, local_files_only=True, low_cpu_mem_usage=False).eval()
        with torch.no_grad():
            latent = loaded.encode_stereo(task.validation)
            plain = task.model.encode_stereo(task.validation)
            assert latent.isfinite().all()
            assert latent.abs().max() < 100
            torch.testing.assert_close(
                loaded.decode_stereo(latent), task.model.decode_stereo(plain), atol=1e-4, rtol=1e-4
            )
        used = latent.unflatten(1, (2, 3))[:, :, 0]
        assert used.mean().abs() < 0.01
        assert (used.std() - 1).abs() < 0.01


class TestEditor:
    def test_cached_text_is_the_same(self) -> None:
        model, (noisy, source, time, text) = small_editor(), inputs()
        mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]).bool()
        with torch.no_grad():
            cached = model.text_keys_values(text)
            assert len(cached) == 5
            torch.testing.assert_close(model(noisy, source, time, cached, mask), model(noisy, source, time, text, mask))

    def test_batched_is_single(self) -> None:
        model, (noisy, source, time, text) = small_editor(), inputs()
        with torch.no_grad():
            together = model(noisy, source, time, text)
            for row in range(3):
                one = slice(row, row + 1)
                alone = model(noisy[one], source[one], time[one], text[one])
                torch.testing.assert_close(together[one], alone, atol=1e-5, rtol=1e-4)

    def test_masked_tokens_do_not_matter(self) -> None:
        model, (noisy, source, time, text) = small_editor(), inputs()
        with torch.no_grad():
            plain = model(noisy, source, time, text)
            longer = torch.cat([text, 50 * torch.randn(3, 4, 10)], dim=1)
            mask = torch.arange(9).expand(3, 9) < 5
            masked = model(noisy, source, time, longer, mask)
            torch.testing.assert_close(masked, plain, atol=1e-5, rtol=1e-4)
            assert (model(noisy, source, time, longer) - plain).abs().max() > 1e-3

    def test_every_input_matters(self) -> None:
        model, (noisy, source, time, text) = small_editor(), inputs()
        with torch.no_grad():
            plain = model(noisy, source, time, text)
            for other in (
                model(noisy + 1, source, time, text),
                model(noisy, source + 1, time, text),
                model(noisy, source, time + 100, text),
                model(noisy, source, time, text.flip(1) + 1),
                model(noisy.flip(2), source.flip(2), time, text).flip(2),
            ):
                assert (other - plain).abs().max() > 1e-3

    def test_checkpointing_changes_nothing(self) -> None:
        noisy, source, time, text = inputs()
        results = []
        with torch.enable_grad():
            for checkpointing in (False, True):
                model = small_editor().train()
                model.gradient_checkpointing = checkpointing
                output = model(noisy, source, time, text)
                output.square().mean().backward()
                results.append((output.detach(), {key: p.grad for key, p in model.named_parameters()}))
        (plain, gradients), (again, others) = results
        torch.testing.assert_close(again, plain)
        assert all(gradient is not None for gradient in gradients.values())
        for key, gradient in gradients.items():
            torch.testing.assert_close(others[key], gradient, msg=key)

    def test_a_fresh_editor(self) -> None:
        torch.manual_seed(0)
        model = EditDiT(6, 16, 4, 2, 2.0, 2, 4.0, 10).eval()
        state = model.state_dict()
        zero = [key for key in state if key.endswith(("cross_attn.proj.weight", "lora_b.weight"))]
        assert len(zero) == 10
        zero += ["time_ada.weight", "time_ada.bias", "time_ada_final.weight", "time_ada_final.bias"]
        assert all(not state[key].any() for key in zero)
        others = [k for k in state if k.endswith("weight") and state[k].ndim == 2 and k not in zero]
        assert all(state[key].any() for key in others)
        noisy, source, time, text = inputs()
        with torch.no_grad():
            plain = model(noisy, source, time, text)
            again = model(noisy, source, time.flip(0), text.flip(0))
        # Neither time nor text is heard before the first step of training.
        torch.testing.assert_close(again, plain)

    def test_one_minus_gate(self) -> None:
        """At gate 1, a block leaves only cross-attention; its projection zeroed, nothing."""
        model = small_editor()
        block = model.mid_block
        with torch.no_grad():
            block.adaln.scale_shift_table.zero_()
            block.adaln.scale_shift_table[[2, 5]] = 1.0
            block.adaln.lora_b.weight.zero_()
            block.cross_attn.proj.weight.zero_()
            block.cross_attn.proj.bias.zero_()
            x = torch.randn(1, 7, 16)
            text = block.text_keys_values(torch.randn(1, 3, 16))
            torch.testing.assert_close(block(x, torch.randn(1, 16), torch.zeros(1, 96), text, None), x)

    def test_saved_and_loaded_bit_for_bit(self, tmp_path: Path) -> None:
        model = small_editor()
        model.save_pretrained(tmp_path)
        loaded = EditDiT.from_pretrained(tmp_path, local_files_only=True, low_cpu_mem_usage=False).eval()
        own, theirs = model.state_dict(), loaded.state_dict()
        assert own.keys() == theirs.keys()
        assert all(torch.equal(own[key], theirs[key]) for key in own)

    def test_time_embedding_has_cosines_first(self) -> None:
        model = small_editor()
        seen = []
        model.time_embed.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        with torch.no_grad():
            model.time_embed(torch.tensor([0, 7]))
        torch.testing.assert_close(seen[0][0], torch.cat([torch.ones(128), torch.zeros(128)]))
        frequency = 10000 ** (-torch.arange(128) / 128)
        torch.testing.assert_close(seen[0][1], torch.cat([(7 * frequency).cos(), (7 * frequency).sin()]))


def full_size(kind: type) -> dict[str, list[int]]:
    with torch.device("meta"):
        model = kind()
    return {key: list(value.shape) for key, value in model.state_dict().items()}


def test_full_size_editor() -> None:
    with torch.device("meta"):
        model = EditDiT()
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(596.83e6, abs=5e3)
    assert model.state_dict()["in_blocks.0.attn.rotary.inv_freq"].shape == (32,)
    assert [hasattr(block, "skip_linear") for block in model.blocks()] == [False] * 13 + [True] * 12


@pytest.mark.parametrize(("file", "kind"), [("editor_full_shapes.json", EditDiT), ("vae_full_shapes.json", Codec)])
def test_keys_and_shapes_of_the_released_files(file: str, kind: type) -> None:
    if not (COMPAT / file).exists():
        pytest.skip("the shape lists are not here")
    assert full_size(kind) == json.loads((COMPAT / file).read_text(encoding="utf-8"))["shapes"]
