"""Makes the golden files of this example: a tiny Wan of diffusers with random weights, and what it computes.

    sh tests/python/setup.sh
    target/python/bin/python examples/wan-like/tests/make_fixture.py

Nothing is downloaded. On a CPU, one thread, f32; with the versions of tests/python/requirements.txt made again it gives
the same bytes. `model.safetensors` holds the weights under diffusers' names, `config.json` the sizes. In
`cases.safetensors` (f32, u32):

| tensor | |
|---|---|
| `latents`, `timesteps`, `text` | `[2,4,3,8,12]`, `[2]`, `[2,5,16]`: the input of every case |
| `rope` | `[72,8]`: for every token the cosines of its four angles, then their sines |
| `plain.output` | `[2,4,3,8,12]`: `WanTransformer3DModel.forward` |
| `at-edm.output`, `at-edm.kept.0` | with AT-EDM (Wang et al., CVPR 2024) as `Options()` of tests/python/atedm_reference.py has it |
| `at-edm-twice.output`, `.kept.0`, `.kept.1` | the same at ratio 0.4 in layers 0 and 1; `kept.1` points into what layer 0 kept |
| `tome.output` | with ToMe (Bolya and Hoffman, arXiv 2303.17604) at ratio 0.5, the first of every 2 x 2 cell of a frame a destination |

The reduced runs are this file's own: dense maps and scores in float64, and every token rotated by the angles of the
place that it had in the whole grid; a merged token has the place of its destination. MARGIN is how clear their closest
discrete choice must be.
"""

import json
import pathlib
import sys

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "tests" / "python"))
import atedm_reference as reference  # noqa: E402

SEED = 3
MARGIN = 1e-4
CONFIG = dict(
    patch_size=[1, 2, 2],
    num_attention_heads=3,
    attention_head_dim=8,
    in_channels=4,
    out_channels=4,
    text_dim=16,
    freq_dim=16,
    ffn_dim=40,
    num_layers=4,
    cross_attn_norm=True,
    eps=1e-6,
)
FRAMES, HEIGHT, WIDTH = 3, 4, 6  # of tokens; neither square nor one frame


def make_model():
    """diffusers' own initial weights; norms and biases differ from 1 and 0, so that each of them matters."""
    torch.manual_seed(SEED)
    model = WanTransformer3DModel(**CONFIG).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn(parameter.shape)
        elif "to_q" in name or "to_k" in name or "ffn" in name or "to_out" in name:
            parameter.data *= 1.7
    return model


def rotate(x, rope):
    """Rotates the pairs of channels of x [B,H,N,d]; rope is (cos, sin), each [B,N,d/2]."""
    cos, sin = (part.unsqueeze(1) for part in rope)
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


def project(module, x, context, rope):
    """Queries, keys and values of an attention module; where there is a rope, rotated."""
    q = reference.split_heads(module.norm_q(module.to_q(x)), module.heads)
    k = reference.split_heads(module.norm_k(module.to_k(context)), module.heads)
    v = reference.split_heads(module.to_v(context), module.heads)
    return (q, k, v) if rope is None else (rotate(q, rope), rotate(k, rope), v)


def attend(module, q, k, v):
    """An attention module's output."""
    out = F.scaled_dot_product_attention(q, k, v)
    return module.to_out[0](out.transpose(1, 2).flatten(2))


class Run:
    """The whole model's forward with a reduction in its blocks."""

    def __init__(self, model, ratio=0.0, prune_layers=(), merge_ratio=0.0):
        self.model, self.prune_layers, self.merge_ratio = model, prune_layers, merge_ratio
        self.options = reference.Options(ratio=ratio)
        self.kept, self.margins = [], []

    def __call__(self, latents, timesteps, text):
        model = self.model
        cos, sin = model.rope(latents)
        # each angle stands twice in diffusers' tables
        tables = [part[0, :, 0, 0::2].expand(latents.shape[0], -1, -1) for part in (cos, sin)]
        time, modulation, text, _ = model.condition_embedder(timesteps, text)
        modulation = modulation.unflatten(1, (6, -1))
        x = model.patch_embedding(latents).flatten(2).transpose(1, 2)
        places = torch.arange(x.shape[1]).expand(x.shape[0], -1)
        undo = []
        for i, block in enumerate(model.blocks):
            rope = [reference.take(table, places) for table in tables]
            x, (q, k) = self.layer(block, x, text, modulation, rope, places)
            if i in self.prune_layers:
                x, pruned = self.prune(x, q, k)
                places = places.gather(1, pruned.kept)
                undo.append(pruned)
        for pruned in reversed(undo):
            x = pruned.restore(x, self.options.recovery)
        shift, scale = (model.scale_shift_table + time.unsqueeze(1)).chunk(2, dim=1)
        x = model.proj_out(model.norm_out(x) * (1 + scale) + shift)
        x = x.unflatten(1, (FRAMES, HEIGHT, WIDTH)).unflatten(4, (1, 2, 2, -1))
        return x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)

    def layer(self, block, x, text, modulation, rope, places):
        """One layer; the queries and keys of its self-attention, too."""
        shift, scale, gate, ff_shift, ff_scale, ff_gate = (block.scale_shift_table + modulation).chunk(6, dim=1)
        normed = block.norm1(x) * (1 + scale) + shift
        if self.merge_ratio:
            groups, merge = self.merge(x)
            normed = merge @ normed
            rope = [reference.take(table, groups["places"]) for table in rope]
        q, k, v = project(block.attn1, normed, normed, rope)
        out = attend(block.attn1, q, k, v)
        if self.merge_ratio:
            out = reference.take(out, groups["of"])
        x = x + out * gate
        x = x + attend(block.attn2, *project(block.attn2, block.norm2(x), text, None))
        x = x + block.ffn(block.norm3(x) * (1 + ff_scale) + ff_shift) * ff_gate
        return x, (q, k)

    def prune(self, x, q, k):
        """AT-EDM: scores, splits and shrinks the tokens."""
        a = reference.attention_map(q, k)
        per_head, _ = reference.g_wpr(a, self.options, False, self.margins)
        scores = reference.over_heads(per_head, self.options.heads)
        kept, pruned = reference.split(scores, self.options.ratio, self.margins)
        source = reference.most_similar(a, kept, pruned, self.margins)
        self.kept.append(kept)
        return reference.take(x, kept), reference.Pruned(kept, pruned, source, reference.take(x, pruned))

    def merge(self, x):
        """ToMe: for each row the group of every token and the place of every group; and the mean over groups as a
        matrix [B,groups,N]."""
        batch, n, _ = x.shape
        destinations = [
            (f * HEIGHT + y) * WIDTH + c for f in range(FRAMES) for y in range(0, HEIGHT, 2) for c in range(0, WIDTH, 2)
        ]
        sources = [i for i in range(n) if i not in destinations]
        count = min(int(self.merge_ratio * n), len(sources))
        unit = F.normalize(x.double(), dim=-1)
        likeness = unit[:, sources] @ unit[:, destinations].transpose(-1, -2)
        best, goal = likeness.topk(2, dim=-1)
        order = best[..., 0].argsort(dim=-1, descending=True, stable=True)
        ranked = best[..., 0].gather(1, order)
        self.margins.append(("merged", (ranked[:, count - 1] - ranked[:, count]).min().item()))
        clear = (best[..., 0] - best[..., 1]).gather(1, order[:, :count])
        self.margins.append(("goal", clear.min().item()))
        of, places, merge = [], [], torch.zeros(batch, n - count, n)
        for b in range(batch):
            merged = {sources[i]: destinations[goal[b, i, 0]] for i in order[b, :count].tolist()}
            heads = [i for i in range(n) if i not in merged]
            of.append([heads.index(merged.get(i, i)) for i in range(n)])
            places.append(heads)
            for i in range(n):
                merge[b, of[b][i], i] = 1
        merge /= merge.sum(-1, keepdim=True)
        return dict(of=torch.tensor(of), places=torch.tensor(places)), merge


def main():
    torch.set_num_threads(1)
    model = make_model()
    tensors = dict(
        latents=torch.randn(2, 4, FRAMES, 2 * HEIGHT, 2 * WIDTH),
        timesteps=torch.tensor([900.0, 37.5]),
        text=torch.randn(2, 5, 16),
    )
    given = tuple(tensors.values())
    with torch.no_grad():
        cos, sin = model.rope(given[0])
        tensors["rope"] = torch.cat([cos[0, :, 0, 0::2], sin[0, :, 0, 0::2]], dim=-1)
        tensors["plain.output"] = model(given[0], given[1], given[2], return_dict=False)[0]
        runs = {
            "at-edm": Run(model, ratio=0.63, prune_layers=(0,)),
            "at-edm-twice": Run(model, ratio=0.4, prune_layers=(0, 1)),
            "tome": Run(model, merge_ratio=0.5),
        }
        off = (Run(model)(*given) - tensors["plain.output"]).norm() / tensors["plain.output"].norm()
        assert off < 1e-6, f"the forward here is not diffusers': {off:.1e}"
        for name, run in runs.items():
            tensors[f"{name}.output"] = run(*given)
            for i, kept in enumerate(run.kept):
                tensors[f"{name}.kept.{i}"] = kept.to(torch.uint32)
            # a stop is as clear as its distance from epsilon is in units of it
            margins = [(kind, m / run.options.epsilon if kind == "stop" else m) for kind, m in run.margins]
            kind, least = min(margins, key=lambda margin: margin[1])
            moved = (tensors[f"{name}.output"] - tensors["plain.output"]).norm() / tensors["plain.output"].norm()
            print(f"{name}: {moved:.3f} from plain, closest choice {kind} {least:.1e}")
            assert least > MARGIN, f"{name}: rounding may decide"
    folder = HERE / "fixture"
    folder.mkdir(exist_ok=True)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "cases.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
