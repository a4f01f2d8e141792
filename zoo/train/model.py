"""The two architectures as plain functions over named weights: fast to compile, equal to the hub's.

The work of a layer before and after attention sees a flat list of tokens, so a change of context
length compiles nothing again.  All experts are computed as one wide MLP and weighted by the sparse
top-2 gate: static shapes, and the weights of an ordinary Mixtral.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


EPS = 1e-5


@dataclass(frozen=True)
class Shape:
    """The sizes of a model; `experts` 0 means dense."""

    layers: int = 8
    width: int = 256
    hidden: int = 768
    experts: int = 0
    heads: int = 4
    kv_heads: int = 2
    head: int = 64
    vocabulary: int = 4096
    theta: float = 1e5


SHAPES = {
    "tiny-dense": Shape(),
    "tiny-moe": Shape(layers=5, hidden=192, experts=8),
    "probe-dense": Shape(layers=2, width=64, hidden=128, head=16),
    "probe-moe": Shape(layers=2, width=64, hidden=32, experts=8, head=16),
}


def rms(x: Tensor, weight: Tensor) -> Tensor:
    """Root-mean-square norm in float32."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)
    return (wide * weight).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (tokens, heads, head), halves rotated as in Llama."""
    a, b = x.float().chunk(2, -1)
    c, s = cos[:, None], sin[:, None]
    return torch.cat([a * c - b * s, b * c + a * s], -1).to(x.dtype)


def before(x: Tensor, cos: Tensor, sin: Tensor, norm: Tensor, wq: Tensor, wk: Tensor, wv: Tensor,
           head: int) -> tuple[Tensor, Tensor, Tensor]:
    """Norm, the three projections and rotation; keys and values repeated to the query heads."""
    weight = torch.cat([wq, wk, wv]).to(x.dtype)
    q, k, v = (rms(x, norm) @ weight.T).split([wq.shape[0], wk.shape[0], wv.shape[0]], -1)
    n, repeat = x.shape[0], wq.shape[0] // wk.shape[0]
    q = rotate(q.reshape(n, -1, head), cos, sin)
    k = rotate(k.reshape(n, -1, head), cos, sin).repeat_interleave(repeat, 1)
    return q, k, v.reshape(n, -1, head).repeat_interleave(repeat, 1)


def after(x: Tensor, mixed: Tensor, wo: Tensor, norm: Tensor, gate: Tensor, up: Tensor,
          down: Tensor) -> Tensor:
    """The output projection and the dense MLP."""
    x = x + mixed @ wo.to(x.dtype).T
    h = rms(x, norm)
    return x + (F.silu(h @ gate.to(x.dtype).T) * (h @ up.to(x.dtype).T)) @ down.to(x.dtype).T


def top2(h: Tensor, router: Tensor) -> tuple[Tensor, Tensor]:
    """All experts' probabilities and the sparse gate: the two largest, made to sum to one."""
    probs = (h.float() @ router.T).softmax(-1)
    first = probs.amax(-1, keepdim=True)
    second = probs.masked_fill(probs >= first, 0.0).amax(-1, keepdim=True)
    gate = torch.where(probs >= second, probs, 0.0)
    return probs, gate / gate.sum(-1, keepdim=True)


def after_moe(x: Tensor, mixed: Tensor, wo: Tensor, norm: Tensor, router: Tensor, w1: Tensor,
              w2: Tensor, w3: Tensor) -> tuple[Tensor, Tensor]:
    """The output projection, the mixture of experts, and its balance loss."""
    x = x + mixed @ wo.to(x.dtype).T
    h = rms(x, norm)
    probs, gate = top2(h, router)
    experts, hidden, width = w1.shape
    a = h @ w1.reshape(-1, width).to(x.dtype).T
    b = h @ w3.reshape(-1, width).to(x.dtype).T
    act = (F.silu(a) * b).view(-1, experts, hidden) * gate[:, :, None].to(x.dtype)
    wide = w2.permute(1, 0, 2).reshape(width, -1).to(x.dtype)
    used = (gate > 0).float().mean(0)
    return x + act.view(x.shape[0], -1) @ wide.T, experts * (used * probs.mean(0)).sum()


def loss_of(x: Tensor, norm: Tensor, table: Tensor, target: Tensor,
            weight: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted loss with a z-loss, and each token's negative log-likelihood."""
    logits = (rms(x, norm) @ table.to(x.dtype).T).float()
    lse = logits.logsumexp(-1)
    nll = lse - logits.gather(1, target[:, None])[:, 0]
    total = weight.sum().clamp(min=1.0)
    return ((nll + 1e-4 * lse.square()) * weight).sum() / total, nll.detach()


class Model(nn.Module):
    """The weights and the forward pass over (batch, time) ids."""

    def __init__(self, shape: Shape, compiled: bool = False, dtype: torch.dtype = torch.bfloat16):
        super().__init__()
        self.shape, self.dtype = shape, dtype
        s, make = shape, self.matrix
        self.embed = make(s.vocabulary, s.width, std=0.02)
        self.norm = nn.Parameter(torch.ones(s.width))
        self.layers = nn.ModuleList()
        for _ in range(s.layers):
            layer = nn.ParameterDict({
                "norm1": nn.Parameter(torch.ones(s.width)),
                "norm2": nn.Parameter(torch.ones(s.width)),
                "wq": make(s.heads * s.head, s.width), "wk": make(s.kv_heads * s.head, s.width),
                "wv": make(s.kv_heads * s.head, s.width),
                "wo": make(s.width, s.heads * s.head, std=0.0),
            })
            lead = (s.experts,) if s.experts else ()
            layer["w1"] = make(*lead, s.hidden, s.width)
            layer["w3"] = make(*lead, s.hidden, s.width)
            layer["w2"] = make(*lead, s.width, s.hidden, std=0.0)
            if s.experts:
                layer["router"] = make(s.experts, s.width, std=0.02)
            self.layers.append(layer)
        wrap = torch.compile if compiled else (lambda f: f)
        self.before, self.after = wrap(before), wrap(after_moe if s.experts else after)
        self.loss_of = wrap(loss_of)

    @staticmethod
    def matrix(*size: int, std: float | None = None) -> nn.Parameter:
        """A random matrix; by default at the scale of its input width."""
        return nn.Parameter(torch.randn(*size) * (0.7 * size[-1] ** -0.5 if std is None else std))

    def trunk(self, ids: Tensor, plain: bool = False) -> tuple[Tensor, Tensor]:
        """The last layer's (batch * time, width) and the summed balance loss."""
        s, (batch, time) = self.shape, ids.shape
        one = before if plain else self.before
        two = (after_moe if s.experts else after) if plain else self.after
        at = torch.arange(time, device=ids.device, dtype=torch.float32)
        turn = s.theta ** -(torch.arange(0, s.head, 2, device=ids.device) / s.head)
        angle = torch.outer(at, turn).repeat(batch, 1)
        cos, sin = angle.cos(), angle.sin()
        x = F.embedding(ids.flatten(), self.embed).to(self.dtype)
        balance = x.new_zeros((), dtype=torch.float32)
        for p in self.layers:
            q, k, v = one(x, cos, sin, p["norm1"], p["wq"], p["wk"], p["wv"], s.head)
            q, k, v = (t.view(batch, time, s.heads, s.head).transpose(1, 2) for t in (q, k, v))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            mixed = mixed.transpose(1, 2).reshape(batch * time, -1)
            if s.experts:
                x, one_balance = two(x, mixed, p["wo"], p["norm2"], p["router"], p["w1"], p["w2"],
                                     p["w3"])
                balance = balance + one_balance
            else:
                x = two(x, mixed, p["wo"], p["norm2"], p["w1"], p["w3"], p["w2"])
        return x, balance

    def loss(self, ids: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The training loss of a batch and each token's negative log-likelihood."""
        x, balance = self.trunk(ids)
        loss, nll = self.loss_of(x, self.norm, self.embed, target.flatten(), weight.flatten())
        return loss + 1e-3 * balance, nll

    @torch.no_grad()
    def logits(self, ids: Tensor) -> Tensor:
        """The logits of every position, uncompiled."""
        x, _ = self.trunk(ids, plain=True)
        logits = rms(x, self.norm) @ self.embed.to(x.dtype).T
        return logits.view(*ids.shape, -1)


class Muon:
    """Muon over all hidden matrices, those of one shape orthogonalised together."""

    def __init__(self, params: list[nn.Parameter], momentum: float = 0.95, decay: float = 0.02):
        self.momentum, self.decay = momentum, decay
        self.groups: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for p in params:
            self.groups.setdefault(tuple(p.shape), []).append(p)
        self.buffers = {s: torch.zeros(len(g), *s, device=g[0].device)
                        for s, g in self.groups.items()}

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One update with this learning rate."""
        for shape, group in self.groups.items():
            grad = torch.stack([p.grad for p in group])  # type: ignore[misc]
            buffer = self.buffers[shape]
            buffer.lerp_(grad, 1 - self.momentum)
            x = grad.lerp(buffer, self.momentum).reshape(-1, *shape[-2:]).bfloat16()
            if flip := shape[-2] > shape[-1]:
                x = x.mT
            x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
            for _ in range(5):
                a = x @ x.mT
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
            x = (x.mT if flip else x).float().reshape(buffer.shape)
            scale = max(1.0, shape[-2] / shape[-1]) ** 0.5
            torch._foreach_mul_(group, 1 - lr * self.decay)
            torch._foreach_add_(group, list((x * (-lr * scale)).unbind(0)))
            for p in group:
                p.grad = None
