"""AT-EDM on diffusers' UNet2DConditionModel, written for clarity: every attention map is a dense float64 matrix.

    python atedm_reference.py        checks the vectorised formulas against plain loops

A *block* is one Transformer2DModel, its *layers* are its BasicTransformerBlocks (self-attention, cross-attention and
feed-forward, each behind a norm and inside a residual). Tokens are pruned at the layers `prune_layers` and come back
before the block's `proj_out`. `with AtEdm(unet, options, steps) as run:` replaces the forward of every block of depth
two or more; the pipeline calls `run.begin_step(index)` before each evaluation.
"""

import dataclasses
import math

import torch
import torch.nn.functional as F


@dataclasses.dataclass
class Options:
    """The options of the method, with their defaults."""

    ratio: float = 0.63
    tau: object = "30%"  # a count of steps, or a share of them
    prune_point: str = "after_ff"  # | before_ff
    prune_layers: tuple = (0,)
    score: str = "self"  # | cross
    recovery: str = "similarity"  # | direct | zero | bicubic
    schedule: str = "prune-less"  # | prune-more | constant
    max_iterations: int = 5
    epsilon: float = 1e-4
    norm: str = "l1"  # | l2
    heads: str = "rms"  # | mean | max
    levels: object = "all"  # | "1+2"
    guidance: str = "per_row"  # | cond | mean: whose scores decide in the two halves [uncond, cond] of a batch

    def early_steps(self, steps):
        """How many steps count as early."""
        if isinstance(self.tau, str) and self.tau.endswith("%"):
            early = math.floor(float(self.tau[:-1]) / 100.0 * steps)
        else:
            early = int(self.tau)
        if early > steps:
            raise ValueError(f"tau = {early} of {steps} steps")
        return early

    def allows_level(self, level):
        """Whether blocks at this resolution level (0: full latent size) are pruned at all."""
        return self.levels == "all" or str(level) in str(self.levels).split("+")


def parse_options(text):
    """`ratio=0.5,tau=30%,...` as the program takes it."""
    fields = {f.name: f for f in dataclasses.fields(Options)}
    values = {}
    for pair in filter(None, text.split(",")):
        key, value = pair.split("=", 1)
        if key == "prune_layers":
            values[key] = tuple(int(v) for v in value.split("+"))
        elif isinstance(fields[key].default, (int, float)):
            values[key] = type(fields[key].default)(value)
        else:
            values[key] = value
    return Options(**values)


# --- scores --------------------------------------------------------------------------------------------------------


def attention_map(q, k):
    """softmax(q kᵀ / √d) in float64; q [B,H,M,d], k [B,H,N,d] -> [B,H,M,N]."""
    logits = q.double() @ k.double().transpose(-1, -2) / math.sqrt(q.shape[-1])
    return torch.softmax(logits, dim=-1)


def importance(a, cross):
    """Eq. 1's denominator: each query's entropy, clamped. None for self-attention."""
    if not cross:
        return None
    return -torch.special.xlogy(a, a).sum(-1).clamp(max=-1e-12)


def g_wpr(a, options, cross, margins=None):
    """G-WPR for each head: a [B,H,M,N] -> scores of the queries [B,H,M], and the votes that were cast [B,H].

    A head stops once the L1 change of its scores is at most epsilon. The other heads continue."""
    m = a.shape[-2]
    s = torch.full(a.shape[:-1], 1.0 / m, dtype=torch.float64)
    running = torch.ones(a.shape[:2], dtype=torch.bool)
    votes = torch.zeros(a.shape[:2], dtype=torch.int64)
    entropy = importance(a, cross)
    for _ in range(options.max_iterations):
        received = (a.transpose(-1, -2) @ s.unsqueeze(-1)).squeeze(-1)
        if cross:
            received = (a @ received.unsqueeze(-1)).squeeze(-1) / entropy
        size = received.abs().sum(-1) if options.norm == "l1" else received.square().sum(-1).sqrt()
        received = received / size.unsqueeze(-1)
        change = (received - s).abs().sum(-1)
        if margins is not None and options.epsilon > 0 and running.any():
            margins.append(("stop", (change - options.epsilon).abs()[running].min().item()))
        s = torch.where(running.unsqueeze(-1), received, s)
        votes += running
        if options.epsilon > 0:
            running = running & (change > options.epsilon)
        if not running.any():
            break
    return s, votes


def over_heads(s, how):
    """[B,H,N] -> [B,N]."""
    if how == "rms":
        return s.square().mean(1).sqrt()
    return s.mean(1) if how == "mean" else s.amax(1)


def split(scores, ratio, margins=None):
    """Kept and pruned positions of each row, both ascending. Among equal scores, the lower index is kept first."""
    n = scores.shape[-1]
    kept = n - math.floor(ratio * n)
    order = torch.argsort(scores, dim=-1, descending=True, stable=True)
    if margins is not None and 0 < kept < n:
        ranked = scores.gather(1, order)
        margins.append(("kept", ((ranked[:, kept - 1] - ranked[:, kept]) / ranked[:, kept]).min().item()))
    return order[:, :kept].sort(-1).values, order[:, kept:].sort(-1).values


def most_similar(a, kept, pruned, margins=None):
    """For each pruned token b, the place in `kept` of the token that attends to b most (mean over heads)."""
    mean = a.mean(1)
    columns = take(mean, kept).gather(2, pruned.unsqueeze(1).expand(-1, kept.shape[1], -1))
    if margins is not None and kept.shape[1] > 1 and pruned.shape[1] > 0:
        best = columns.topk(2, dim=1).values
        margins.append(("copy", ((best[:, 0] - best[:, 1]) / best[:, 0]).min().item()))
    highest = columns.amax(1, keepdim=True)
    rows = torch.arange(kept.shape[1]).view(1, -1, 1)
    return torch.where(columns == highest, rows, kept.shape[1]).amin(1)


def share(scores, how):
    """One decision for both halves [uncond, cond] of a guided batch."""
    if how == "per_row":
        return scores
    uncond, cond = scores.chunk(2)
    return torch.cat([cond if how == "cond" else (cond + uncond) * 0.5] * 2)


STRETCHED_KEYS = {0: 1.0, 1: 19 / 32, 3: -3 / 32}


def bicubic(field):
    """The keys' kernel (a = -0.75) stretched over two cells, without the cell itself. field is [B,C,H,W] of kept values and zeros.
    Gives for each cell a third of the weighted sum of its neighbours, with zeros outside."""
    height, width = field.shape[-2:]
    padded = F.pad(field.double(), (3, 3, 3, 3))
    out = torch.zeros_like(field, dtype=torch.float64)
    for u in range(-3, 4):
        for v in range(-3, 4):
            weight = STRETCHED_KEYS.get(abs(u), 0.0) * STRETCHED_KEYS.get(abs(v), 0.0)
            if weight and (u, v) != (0, 0):
                out += weight * padded[..., 3 + u : 3 + u + height, 3 + v : 3 + v + width]
    return out / 3


def take(x, index):
    """Rows `index` [B,K] of x [B,N,C]."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


# --- the pruned block ----------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Pruned:
    """The record of one pruning, which is needed to undo it."""

    kept: torch.Tensor
    pruned: torch.Tensor
    source: torch.Tensor
    value: torch.Tensor
    grid: tuple = None

    def restore(self, x, recovery):
        """Full-length tokens from the kept ones."""
        full = torch.zeros(x.shape[0], self.kept.shape[1] + self.pruned.shape[1], x.shape[2], dtype=x.dtype)
        full.scatter_(1, self.kept.unsqueeze(-1).expand_as(x), x)
        if recovery == "similarity":
            filling = take(x, self.source)
        elif recovery == "direct":
            filling = self.value
        elif recovery == "zero":
            filling = torch.zeros_like(self.value)
        elif recovery == "bicubic":
            cells = bicubic(full.transpose(1, 2).unflatten(2, self.grid)).to(x.dtype)
            filling = take(cells.flatten(2).transpose(1, 2), self.pruned)
        else:
            raise ValueError(f"recovery {recovery}")
        return full.scatter_(1, self.pruned.unsqueeze(-1).expand_as(filling), filling)


def split_heads(x, heads):
    """[B,N,H·d] -> [B,H,N,d]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(module, x, context):
    """An attention module's output and its queries and keys."""
    q = split_heads(module.to_q(x), module.heads)
    k = split_heads(module.to_k(context), module.heads)
    v = split_heads(module.to_v(context), module.heads)
    out = F.scaled_dot_product_attention(q, k, v)
    return module.to_out[0](out.transpose(1, 2).flatten(2)), q, k


def block_sites(unet):
    """(name, module, level, kind) of every attention block, in the order in which they run.

    kind is "first" for the first of a down stage, "last" for the last of an up stage, and "" otherwise."""
    sites = []
    levels = len(unet.down_blocks)
    for i, stage in enumerate(unet.down_blocks):
        for j, block in enumerate(getattr(stage, "attentions", [])):
            sites.append((f"down_blocks.{i}.attentions.{j}", block, i, "first" if j == 0 else ""))
    for j, block in enumerate(getattr(unet.mid_block, "attentions", [])):
        sites.append((f"mid_block.attentions.{j}", block, levels - 1, ""))
    for i, stage in enumerate(getattr(unet, "up_blocks", [])):
        blocks = getattr(stage, "attentions", [])
        for j, block in enumerate(blocks):
            kind = "last" if j + 1 == len(blocks) else ""
            sites.append((f"up_blocks.{i}.attentions.{j}", block, levels - 1 - i, kind))
    return sites


class AtEdm:
    """A context manager that prunes inside a U-Net, and inside the ControlNet beside it if there is one.

    `records` has one entry for each pruning: step, block, layer, kept [B,K] and source [B,P] (an index into all tokens of that
    layer), the scores [B,N] and the votes cast [B,H]. `margins` says how close each discrete choice was: ("kept", relative gap of the
    scores at the cut), ("copy", relative gap of the two largest attentions received), ("stop", |change - epsilon|)."""

    def __init__(self, unet, options, steps, control=None):
        self.unet, self.control, self.options, self.steps = unet, control, options, steps
        self.early = options.early_steps(steps)
        self.step = 0
        self.records, self.margins = [], []

    def begin_step(self, index):
        """Sets the step of the next evaluation."""
        self.step = index

    def prunes(self, level, kind):
        """Whether the schedule prunes such a block in this step."""
        if not self.options.allows_level(level):
            return False
        if self.options.schedule == "constant" or kind == "":
            return True
        early = self.step < self.early
        return not early if self.options.schedule == "prune-less" else early

    def __enter__(self):
        self.sites = block_sites(self.unet)
        if self.control is not None:
            self.sites += [("control-" + name, *site) for name, *site in block_sites(self.control)]
        for name, block, level, kind in self.sites:
            if len(block.transformer_blocks) > 1:
                block.forward = self.forward_of(name, block, level, kind)
        return self

    def __exit__(self, *_):
        for _, block, _, _ in self.sites:
            block.__dict__.pop("forward", None)

    def forward_of(self, name, block, level, kind):
        """A forward for one block that prunes when the schedule says so."""

        def forward(hidden_states, encoder_hidden_states=None, return_dict=True, **_):
            layers = self.options.prune_layers if self.prunes(level, kind) else ()
            return (self.run_block(name, block, hidden_states, encoder_hidden_states, layers),)

        return forward

    def run_block(self, name, block, image, text, prune_layers):
        """norm, proj_in, the layers, recovery, proj_out, residual."""
        batch, _, height, width = image.shape
        x = block.norm(image)
        if block.use_linear_projection:
            x = block.proj_in(x.flatten(2).transpose(1, 2))
        else:
            x = block.proj_in(x).flatten(2).transpose(1, 2)
        undo, grid = [], (height, width)
        last = len(block.transformer_blocks) - 1
        for i, layer in enumerate(block.transformer_blocks):
            prune = i in prune_layers and i != last
            normed = layer.norm1(x)
            update, q, k = attend(layer.attn1, normed, normed)
            x = x + update
            update, q_text, k_text = attend(layer.attn2, layer.norm2(x), text)
            x = x + update
            if prune and self.options.prune_point == "before_ff":
                x, pruned = self.prune(name, i, x, (q, k), (q_text, k_text), grid)
                undo.append(pruned)
            x = x + layer.ff(layer.norm3(x))
            if prune and self.options.prune_point == "after_ff":
                x, pruned = self.prune(name, i, x, (q, k), (q_text, k_text), grid)
                undo.append(pruned)
        for pruned in reversed(undo):
            x = pruned.restore(x, self.options.recovery)
        if block.use_linear_projection:
            x = block.proj_out(x).transpose(1, 2).unflatten(2, (height, width))
        else:
            x = block.proj_out(x.transpose(1, 2).unflatten(2, (height, width)))
        return x + image

    def prune(self, name, layer, x, self_qk, cross_qk, grid):
        """Scores the tokens x [B,N,C], splits them, and keeps the first part."""
        cross = self.options.score == "cross"
        a_self = attention_map(*self_qk)
        a = attention_map(*cross_qk) if cross else a_self
        per_head, votes = g_wpr(a, self.options, cross, self.margins)
        scores = share(over_heads(per_head, self.options.heads), self.options.guidance)
        kept, pruned = split(scores, self.options.ratio, self.margins)
        margins = self.margins if self.options.recovery == "similarity" else None
        source = most_similar(a_self, kept, pruned, margins)
        self.records.append(
            dict(
                step=self.step,
                block=name,
                layer=layer,
                kept=kept,
                source=kept.gather(1, source),
                scores=scores,
                votes=votes,
            )
        )
        return take(x, kept), Pruned(kept, pruned, source, take(x, pruned), grid)

    def margin(self, kind):
        """The closest choice of one kind, or infinity."""
        return min((value for k, value in self.margins if k == kind), default=math.inf)


# --- self-check ----------------------------------------------------------------------------------------------------


def loop_scores(a, options, cross):
    """G-WPR for one head's map (a list of rows), one number at a time."""
    m, n = len(a), len(a[0])
    s = [1.0 / m] * m
    for _ in range(options.max_iterations):
        key = [sum(a[i][j] * s[i] for i in range(m)) for j in range(n)]
        new = key
        if cross:
            new = []
            for i in range(m):
                entropy = max(-sum(p * math.log(p) for p in a[i] if p > 0), 1e-12)
                new.append(sum(a[i][j] * key[j] for j in range(n)) / entropy)
        size = sum(abs(v) for v in new) if options.norm == "l1" else math.sqrt(sum(v * v for v in new))
        new = [v / size for v in new]
        change = sum(abs(v - w) for v, w in zip(new, s))
        s = new
        if options.epsilon > 0 and change <= options.epsilon:
            break
    return s


def loop_split(scores, ratio):
    """Prunes the lowest score, one token after the other. Among equal scores, the highest index goes first."""
    left = list(range(len(scores)))
    for _ in range(math.floor(ratio * len(scores))):
        worst = left[0]
        for i in left:
            if scores[i] <= scores[worst]:
                worst = i
        left.remove(worst)
    return left


def loop_restore(x, a, kept, n, recovery, before):
    """The full list of tokens; a is a list of heads."""
    full = []
    for b in range(n):
        if b in kept:
            full.append(x[kept.index(b)])
        elif recovery == "similarity":
            received = [sum(head[i][b] for head in a) / len(a) for i in kept]
            full.append(x[received.index(max(received))])
        elif recovery == "direct":
            full.append(before[b])
        else:
            full.append([0.0] * len(x[0]))
    return full


def self_check():
    """Compares the vectorised formulas with the loops, over a sweep of options."""
    torch.manual_seed(0)
    checked = 0
    for cross in (False, True):
        for norm in ("l1", "l2"):
            for epsilon, iterations in ((0.0, 3), (1e-4, 5), (1e-2, 50), (3e-2, 50)):
                options = Options(norm=norm, epsilon=epsilon, max_iterations=iterations)
                batch, heads, n, d, length = 2, 3, 13, 4, 5
                x = torch.randn(batch, n, 2, dtype=torch.float64)
                a_self = attention_map(3 * torch.randn(batch, heads, n, d), torch.randn(batch, heads, n, d))
                a = attention_map(torch.randn(batch, heads, n, d), torch.randn(batch, heads, length, d))
                a = a if cross else a_self
                per_head, _ = g_wpr(a, options, cross)
                for b in range(batch):
                    for h in range(heads):
                        wanted = loop_scores(a[b, h].tolist(), options, cross)
                        assert torch.allclose(per_head[b, h], torch.tensor(wanted, dtype=torch.float64), atol=1e-13)
                for how in ("rms", "mean", "max"):
                    scores = over_heads(per_head, how)
                    for b in range(batch):
                        columns = per_head[b].T.tolist()
                        wanted = {
                            "rms": [math.sqrt(sum(v * v for v in c) / heads) for c in columns],
                            "mean": [sum(c) / heads for c in columns],
                            "max": [max(c) for c in columns],
                        }[how]
                        assert torch.allclose(scores[b], torch.tensor(wanted, dtype=torch.float64), atol=1e-13)
                kept, pruned = split(scores, 0.63)
                assert pruned.shape[1] == 8
                for recovery in ("similarity", "direct", "zero"):
                    state = Pruned(kept, pruned, most_similar(a_self, kept, pruned), take(x, pruned))
                    small = 2 * take(x, kept)
                    full = state.restore(small, recovery)
                    for b in range(batch):
                        assert kept[b].tolist() == loop_split(scores[b].tolist(), 0.63)
                        wanted = loop_restore(
                            small[b].tolist(), a_self[b].tolist(), kept[b].tolist(), n, recovery, x[b].tolist()
                        )
                        assert torch.equal(full[b], torch.tensor(wanted, dtype=torch.float64))
                        checked += 1
    ties = torch.tensor([[1.0, 2.0, 1.0, 1.0, 2.0]], dtype=torch.float64)
    assert split(ties, 0.5)[0].tolist() == [[0, 1, 4]]
    uniform = torch.full((1, 2, 5, 5), 0.2, dtype=torch.float64)
    assert most_similar(uniform, torch.tensor([[1, 3]]), torch.tensor([[0, 2, 4]])).tolist() == [[0, 0, 0]]
    one_hot = torch.eye(4, dtype=torch.float64).view(1, 1, 4, 4)
    assert torch.isfinite(g_wpr(one_hot, Options(), True)[0]).all()
    constant = torch.ones(1, 1, 9, 9)
    constant[..., 4, 4] = 0
    assert abs(bicubic(constant)[0, 0, 4, 4].item() - 1) < 1e-12
    print(f"self-check passed ({checked} recoveries)")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        self_check()
