"""Writes tests/fixture: a small FLUX with random weights, and what diffusers makes of it, whole and reduced.

    sh tests/python/setup.sh
    target/python/bin/python examples/flux-candle/make_fixture.py

- `transformer/`: the checkpoint as `save_pretrained` writes it, in f16. diffusers and we load it in f32.
- `expected.safetensors`: the inputs, `output` (diffusers' own forward pass), `NAME.output` of every case of AT-EDM and
  ToMe, and for each of its reductions `NAME.BLOCK.LAYER.kept` [B,K], which index the tokens that entered that layer.
- `cases.json`: the seed; for every case the method and its options, where it reduces (`reduced`), the smallest `margin` of
  a choice (rounding decides none), and the relative `change` of the prediction.
"""

import json
import os
import shutil
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "tests", "python"))

import torch
import torch.nn.functional as F
from atedm_reference import Options
from diffusers import FluxTransformer2DModel
from joint_reference import Tome, draw_weights, first_clear, one_thread, results
from safetensors.torch import save_file

CONFIG = dict(
    patch_size=1,
    in_channels=5,
    num_layers=4,
    num_single_layers=3,
    attention_head_dim=10,
    num_attention_heads=2,
    joint_attention_dim=14,
    pooled_projection_dim=10,
    guidance_embeds=True,
    axes_dims_rope=(4, 2, 4),
)
BATCH, HEIGHT, WIDTH, TEXT = 2, 6, 10, 7
# Queries and keys are normalised: their gains make attention maps with peaks.
GAINS = (("norm_q", 1.5), ("norm_k", 1.5), ("norm_added", 1.5), ("guidance_embedder", 0.7))
CASES = {
    "default": Options(),
    "twice": Options(ratio=0.4, prune_layers=(0, 1)),
    "before_ff": Options(ratio=0.5, prune_layers=(0, 1), prune_point="before_ff"),
    "direct": Options(ratio=0.5, prune_layers=(1,), recovery="direct"),
    "merged": Tome(),
}


def make_inputs(seed):
    """Two images with time steps and guidance of their own."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return dict(
        hidden_states=torch.randn(BATCH, HEIGHT * WIDTH, CONFIG["in_channels"], generator=generator),
        encoder_hidden_states=torch.randn(BATCH, TEXT, CONFIG["joint_attention_dim"], generator=generator),
        pooled_projections=torch.randn(BATCH, CONFIG["pooled_projection_dim"], generator=generator),
        timestep=torch.tensor([0.83, 0.41]),
        guidance=torch.tensor([3.5, 1.75]),
        img_ids=torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float(),
        txt_ids=torch.zeros(TEXT, 3),
    )


# --- the transformer with fewer image tokens -----------------------------------------------------------------------


def rotate(x, table):
    """Turns pairs of channels of x [B,S,H,D] by a table's angles: (cos, sin), each [B,S,D]."""
    cos, sin = (part.unsqueeze(2) for part in table)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack([-odd, even], dim=-1).flatten(3) * sin


def heads(attn, x, to_q, to_k, to_v, norm_q, norm_k, table):
    """Queries, keys and values of one stream, [B,S,H,D]."""
    q, k, v = (linear(x).unflatten(-1, (-1, attn.head_dim)) for linear in (to_q, to_k, to_v))
    return rotate(norm_q(q), table), rotate(norm_k(k), table), v


def image_heads(attn, x, table):
    return heads(attn, x, attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k, table)


def text_heads(attn, x, table):
    projections = attn.add_q_proj, attn.add_k_proj, attn.add_v_proj
    return heads(attn, x, *projections, attn.norm_added_q, attn.norm_added_k, table)


def attend(text, image):
    """Attention over text and image together; both outputs [B,S,C]."""
    q, k, v = (torch.cat(pair, dim=1).transpose(1, 2) for pair in zip(text, image, strict=True))
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return out.split([text[0].shape[1], image[0].shape[1]], dim=1)


def by_head(image):
    """Queries and keys of the image, [B,H,S,D]."""
    return image[0].transpose(1, 2), image[1].transpose(1, 2)


def feed_forward(norm, ff, x, shift, scale, gate):
    """The gated feed-forward of one stream."""
    return gate.unsqueeze(1) * ff(norm(x) * (1 + scale[:, None]) + shift[:, None])


def double_layer(layer, index, tokens, image, text, temb, image_table, text_table):
    """One layer of two streams."""
    tokens.begin_layer(index, image)
    normed, gate, *image_ff = layer.norm1(image, emb=temb)
    text_normed, text_gate, *text_ff = layer.norm1_context(text, emb=temb)
    of_image = image_heads(layer.attn, tokens.input(normed), [tokens.rows(t) for t in image_table])
    of_text = text_heads(layer.attn, text_normed, [t.expand(len(text), -1, -1) for t in text_table])
    text_out, image_out = attend(of_text, of_image)
    image = image + gate.unsqueeze(1) * tokens.output(layer.attn.to_out[0](image_out))
    text = text + text_gate.unsqueeze(1) * layer.attn.to_add_out(text_out)
    image = tokens.after(index, "before_ff", image, *by_head(of_image))
    image = image + feed_forward(layer.norm2, layer.ff, image, *image_ff)
    text = text + feed_forward(layer.norm2_context, layer.ff_context, text, *text_ff)
    return tokens.after(index, "after_ff", image, *by_head(of_image)), text


def single_layer(layer, index, tokens, image, text, temb, image_table, text_table):
    """One layer of one stream: attention and feed-forward side by side."""
    tokens.begin_layer(index, image)
    length = text.shape[1]
    normed, gate = layer.norm(torch.cat([text, image], dim=1), emb=temb)
    normed = torch.cat([normed[:, :length], tokens.input(normed[:, length:])], dim=1)
    table = [
        torch.cat([t.expand(len(text), -1, -1), tokens.rows(i)], dim=1)
        for t, i in zip(text_table, image_table, strict=True)
    ]
    parts = image_heads(layer.attn, normed, table)
    of_text, of_image = [p[:, :length] for p in parts], [p[:, length:] for p in parts]
    attended = torch.cat(attend(of_text, of_image), dim=1)
    beside = layer.act_mlp(layer.proj_mlp(normed))
    out = gate.unsqueeze(1) * layer.proj_out(torch.cat([attended, beside], dim=2))
    image = image + tokens.output(out[:, length:])
    return tokens.after(index, "end", image, *by_head(of_image)), text + out[:, :length]


def forward(model, run, inputs):
    """The whole transformer. Its first layer is a block of its own, which a first-block cache looks at."""
    image = model.x_embedder(inputs["hidden_states"])
    text = model.context_embedder(inputs["encoder_hidden_states"])
    temb = model.time_text_embed(
        1000 * inputs["timestep"], 1000 * inputs["guidance"], inputs["pooled_projections"]
    )
    image_table, text_table = model.pos_embed(inputs["img_ids"]), model.pos_embed(inputs["txt_ids"])
    stages = (
        ("double.0", model.transformer_blocks[:1], double_layer),
        ("double.1", model.transformer_blocks[1:], double_layer),
        ("single.0", model.single_transformer_blocks, single_layer),
    )
    for block, layers, run_layer in stages:
        tokens = run.enter(block, len(layers), image)
        for index, layer in enumerate(layers):
            image, text = run_layer(layer, index, tokens, image, text, temb, image_table, text_table)
        image = tokens.exit(image)
    return model.proj_out(model.norm_out(image, temb))


# --- the fixture ---------------------------------------------------------------------------------------------------


def attempt(seed):
    """The model under one seed and what it makes."""
    model = FluxTransformer2DModel(**CONFIG).eval()
    draw_weights(model, seed, GAINS)
    return model, results(model, forward, make_inputs(seed + 1), (HEIGHT, WIDTH), CASES)


def main():
    """Writes the files."""
    seed, (model, (tensors, cases)) = first_clear(attempt)
    folder = os.path.join(HERE, "tests", "fixture")
    shutil.rmtree(folder, ignore_errors=True)
    model.half().save_pretrained(os.path.join(folder, "transformer"))
    save_file(tensors, os.path.join(folder, "expected.safetensors"))
    facts = dict(seed=seed, batch=BATCH, height=HEIGHT, width=WIDTH, cases=cases)
    with open(os.path.join(folder, "cases.json"), "w", encoding="utf-8") as file:
        json.dump(facts, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    with one_thread():
        main()
