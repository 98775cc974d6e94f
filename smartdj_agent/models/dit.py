"""The editor network: a U-shaped one-dimensional diffusion transformer (architecture.md, "Editor").

Module names equal the released checkpoint's keys. The blocks gate with *one minus* the gate, time enters through a
shared projection plus a low-rank term per block, text through cross-attention in every block.
"""

from __future__ import annotations

import math

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class Rotary(nn.Module):
    """Rotary embedding, halves convention (Su et al. 2021), base 10000; the buffer is part of the released files."""

    inv_freq: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / 10000 ** (torch.arange(0, head_dim, 2) / head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Rotate (B, heads, T, head_dim)."""
        angle = torch.arange(x.shape[-2], device=x.device, dtype=self.inv_freq.dtype)[:, None] * self.inv_freq
        cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


class Attention(nn.Module):
    """Multi-head attention with layer norm on queries and keys; rotary where it attends to itself."""

    def __init__(self, width: int, heads: int, *, rotary: bool) -> None:
        super().__init__()
        self.heads = heads
        head_dim = width // heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.norm_q = nn.LayerNorm(head_dim)
        self.norm_k = nn.LayerNorm(head_dim)
        self.proj = nn.Linear(width, width)
        self.rotary = Rotary(head_dim) if rotary else None

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Project what is attended to, (B, S, width) → two of (B, heads, S, head_dim)."""
        return self.norm_k(self._split(self.to_k(context))), self._split(self.to_v(context))

    def forward(
        self, x: Tensor, keys_values: tuple[Tensor, Tensor] | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Attend from x (B, T, width) to `keys_values`, by default to x itself; mask (B, 1, 1, S) is True to attend."""
        query = self.norm_q(self._split(self.to_q(x)))
        key, value = keys_values if keys_values is not None else self.keys_values(x)
        if self.rotary is not None:
            query, key = self.rotary(query), self.rotary(key)
        dtype = value.dtype
        heard = functional.scaled_dot_product_attention(query.to(dtype), key.to(dtype), value, attn_mask=mask)
        return self.proj(heard.transpose(1, 2).reshape(x.shape))


class GatedLinear(nn.Module):
    """Linear to twice the size; first half times the GELU of the second."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, inputs) → (…, outputs)."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * functional.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU feed-forward (Shazeer 2020); index 1 of `net` is the release's dropout of 0."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GatedLinear(width, hidden), nn.Identity(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, width) → same shape."""
        return self.net(x)


class BlockModulation(nn.Module):
    """A block's six modulation vectors: table + shared projection + low-rank term."""

    def __init__(self, width: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / math.sqrt(width))
        self.lora_a = nn.Linear(width, 6 * rank, bias=False)
        self.lora_b = nn.Linear(6 * rank, 6 * width, bias=False)
        self.scaling = alpha / rank

    def forward(self, time: Tensor, shared: Tensor) -> Tensor:
        """time (B, width), shared (B, 6·width) → (B, 6, 1, width)."""
        own = shared + self.scaling * self.lora_b(self.lora_a(time))
        return (self.scale_shift_table + own.reshape(len(own), 6, -1)).unsqueeze(2)


class Block(nn.Module):
    """Self-attention, cross-attention, feed-forward; out-blocks first merge a skip."""

    def __init__(self, width: int, heads: int, hidden: int, rank: int, alpha: float, *, skip: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, rotary=True)
        self.cross_attn = Attention(width, heads, rotary=False)
        self.norm2 = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, hidden)
        self.adaln = BlockModulation(width, rank, alpha)
        if skip:
            self.skip_norm = nn.LayerNorm(2 * width)
            self.skip_linear = nn.Linear(2 * width, width)

    def text_keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the text for this block; constant over the denoising steps."""
        return self.cross_attn.keys_values(self.norm_context(text))

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        shared: Tensor,
        keys_values: tuple[Tensor, Tensor],
        mask: Tensor | None,
        skip: Tensor | None = None,
    ) -> Tensor:
        """Map x (B, T, width) → same shape."""
        if skip is not None:
            x = self.skip_linear(self.skip_norm(torch.cat([x, skip], dim=-1)))
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaln(time, shared).unbind(1)
        x = x + (1 - gate1) * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        x = x + self.cross_attn(self.norm2(x), keys_values, mask)
        return x + (1 - gate2) * self.mlp(self.norm3(x) * (1 + scale2) + shift2)


class TimeEmbedding(nn.Module):
    """Sinusoid of 256, cosines first, then a two-layer SiLU network."""

    frequencies = 256

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(self.frequencies, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timesteps: Tensor) -> Tensor:
        """timesteps (B,) → (B, width)."""
        half = self.frequencies // 2
        frequency = torch.exp(-math.log(10000) * torch.arange(half, device=timesteps.device) / half)
        angle = timesteps.float()[:, None] * frequency
        wave = torch.cat([angle.cos(), angle.sin()], dim=-1)
        return self.mlp(wave.to(next(self.mlp.parameters()).dtype))


class PatchEmbed(nn.Module):
    """Frames to tokens, kernel 1."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv1d(inputs, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, T) → (B, T, width)."""
        return self.proj(x).transpose(1, 2)


class FinalBlock(nn.Module):
    """Modulated norm, linear, convolution of 3 over frames."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, outputs)
        self.final_layer = nn.Conv1d(outputs, outputs, 3, padding=1)

    def forward(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """x (B, T, width), shift and scale (B, 1, width) → (B, outputs, T)."""
        x = self.linear(self.norm(x) * (1 + scale) + shift)
        return self.final_layer(x.transpose(1, 2))


TextKeysValues = list[tuple[Tensor, Tensor]]


class EditDiT(ModelMixin, ConfigMixin):
    """Predicts v for the edited latent from the noisy latent, the source latent, the time and the step's text.

    Parameters
    ----------
    latent_dim
        Features of a stereo latent (both ears).
    width, depth, heads
        `depth` counts in- and out-blocks; one middle block comes on top.
    mlp_ratio
        Hidden size of the feed-forward over `width`.
    rank, alpha
        Of the per-block low-rank time term.
    context_width
        Width of the text encoder's states.
    """

    config_name = "config.json"
    _repeated_blocks = ("Block",)
    _no_split_modules = ("Block",)
    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        latent_dim: int = 128,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        rank: int = 32,
        alpha: float = 32.0,
        context_width: int = 1024,
    ) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        half = depth // 2
        self.patch_embed = PatchEmbed(2 * latent_dim, width)
        self.time_embed = TimeEmbedding(width)
        self.time_ada = nn.Linear(width, 6 * width)
        self.time_ada_final = nn.Linear(width, 2 * width)
        self.context_embed = nn.Sequential(nn.Linear(context_width, width), nn.SiLU(), nn.Linear(width, width))
        make = lambda skip: Block(width, heads, hidden, rank, alpha, skip=skip)  # noqa: E731
        self.in_blocks = nn.ModuleList([make(False) for _ in range(half)])
        self.mid_block = make(False)
        self.out_blocks = nn.ModuleList([make(True) for _ in range(half)])
        self.final_block = FinalBlock(width, latent_dim)
        self.gradient_checkpointing = False
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for layer in (self.time_ada, self.time_ada_final):
            nn.init.zeros_(layer.weight)
        for block in [*self.in_blocks, self.mid_block, *self.out_blocks]:
            nn.init.zeros_(block.cross_attn.proj.weight)
            nn.init.zeros_(block.adaln.lora_b.weight)

    def blocks(self) -> list[Block]:
        """All blocks in the order in which they run."""
        return [*self.in_blocks, self.mid_block, *self.out_blocks]

    def text_keys_values(self, context: Tensor) -> TextKeysValues:
        """Project text states (B, S, context_width) once per edit; pass the result to every `forward`."""
        text = self.context_embed(context)
        return [block.text_keys_values(text) for block in self.blocks()]

    def forward(
        self,
        noisy: Tensor,
        source: Tensor,
        timesteps: Tensor,
        text: Tensor | TextKeysValues,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Predict v.

        Parameters
        ----------
        noisy, source
            Latents, shape (B, latent_dim, T).
        timesteps
            Shape (B,), 0 to 999.
        text
            Text states (B, S, context_width), or what `text_keys_values` made of them.
        mask
            Shape (B, S), True where the text is to be attended; by default all of it.

        Returns
        -------
        Tensor
            Shape (B, latent_dim, T).
        """
        projected = text if isinstance(text, list) else self.text_keys_values(text)
        attend = None if mask is None else mask[:, None, None, :]
        time = functional.silu(self.time_embed(timesteps))
        shared = self.time_ada(time)
        x = self.patch_embed(torch.cat([noisy, source], dim=1))
        skips: list[Tensor] = []
        half = len(self.in_blocks)
        for index, (block, keys_values) in enumerate(zip(self.blocks(), projected, strict=True)):
            skip = skips.pop() if index > half else None
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, time, shared, keys_values, attend, skip, use_reentrant=False)
            else:
                x = block(x, time, shared, keys_values, attend, skip)
            if index < half:
                skips.append(x)
        shift, scale = self.time_ada_final(time)[:, None].chunk(2, dim=-1)
        return self.final_block(x, shift, scale)
