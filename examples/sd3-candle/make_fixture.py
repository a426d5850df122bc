"""Writes tests/fixture: a small Stable Diffusion 3.5 with random weights under the names of the original checkpoints,
and what diffusers makes of it, whole and reduced.

    sh tests/python/setup.sh
    target/python/bin/python examples/sd3-candle/make_fixture.py

- `mmdit.safetensors`: the weights, in f16. diffusers and we load them in f32. `convert` has the names.
- `config.json`: diffusers' configuration.
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
from diffusers import SD3Transformer2DModel
from joint_reference import Tome, draw_weights, first_clear, one_thread, results
from safetensors.torch import save_file

CONFIG = dict(
    sample_size=24,
    patch_size=2,
    in_channels=3,
    out_channels=3,
    num_layers=4,
    attention_head_dim=12,
    num_attention_heads=2,
    joint_attention_dim=14,
    caption_projection_dim=24,
    pooled_projection_dim=10,
    pos_embed_max_size=12,
    dual_attention_layers=(0, 1),
    qk_norm="rms_norm",
)
BATCH, HEIGHT, WIDTH, TEXT = 2, 6, 10, 7
# Queries and keys are normalised: their gains make attention maps with peaks.
GAINS = (("norm_q", 1.5), ("norm_k", 1.5), ("norm_added", 1.5))
CASES = {
    "default": Options(),
    "twice": Options(ratio=0.4, prune_layers=(0, 1)),
    "before_ff": Options(ratio=0.5, prune_layers=(0, 2), prune_point="before_ff"),
    "direct": Options(ratio=0.5, prune_layers=(1,), recovery="direct"),
    "merged": Tome(),
}


def make_inputs(seed):
    """Two images with time steps of their own."""
    generator = torch.Generator().manual_seed(seed)
    patch = CONFIG["patch_size"]
    shape = (BATCH, CONFIG["in_channels"], HEIGHT * patch, WIDTH * patch)
    return dict(
        hidden_states=torch.randn(shape, generator=generator),
        encoder_hidden_states=torch.randn(BATCH, TEXT, CONFIG["joint_attention_dim"], generator=generator),
        pooled_projections=torch.randn(BATCH, CONFIG["pooled_projection_dim"], generator=generator),
        timestep=torch.tensor([803.5, 411.0]),
    )


# --- names ---------------------------------------------------------------------------------------------------------


def linear(target, source, weights, name, converted):
    """One matrix with its bias; several sources lie one below the other."""
    for kind in ("weight", "bias"):
        parts = [weights[f"{s}.{kind}"] for s in ([source] if isinstance(source, str) else source)]
        converted[f"{target}.{name}.{kind}"] = torch.cat(parts)


def swap_halves(weight):
    """diffusers' last norms give scale and shift, the original gives shift and scale."""
    return torch.cat(weight.chunk(2)[::-1])


def convert(weights):
    """diffusers' weights under the original names."""
    out = {"pos_embed": weights["pos_embed.pos_embed"]}
    for target, source in {
        "x_embedder.proj": "pos_embed.proj",
        "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
        "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
        "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
        "context_embedder": "context_embedder",
        "final_layer.linear": "proj_out",
        "final_layer.adaLN_modulation.1": "norm_out.linear",
    }.items():
        for kind in ("weight", "bias"):
            out[f"{target}.{kind}"] = weights[f"{source}.{kind}"]
    last = CONFIG["num_layers"] - 1
    for i in range(last + 1):
        of, to = f"transformer_blocks.{i}", f"joint_blocks.{i}"
        image, text = f"{to}.x_block", f"{to}.context_block"
        linear(image, f"{of}.norm1.linear", weights, "adaLN_modulation.1", out)
        linear(text, f"{of}.norm1_context.linear", weights, "adaLN_modulation.1", out)
        linear(image, [f"{of}.attn.to_{x}" for x in "qkv"], weights, "attn.qkv", out)
        linear(text, [f"{of}.attn.add_{x}_proj" for x in "qkv"], weights, "attn.qkv", out)
        linear(image, f"{of}.attn.to_out.0", weights, "attn.proj", out)
        for x in "qk":
            out[f"{image}.attn.ln_{x}.weight"] = weights[f"{of}.attn.norm_{x}.weight"]
            out[f"{text}.attn.ln_{x}.weight"] = weights[f"{of}.attn.norm_added_{x}.weight"]
        linear(image, f"{of}.ff.net.0.proj", weights, "mlp.fc1", out)
        linear(image, f"{of}.ff.net.2", weights, "mlp.fc2", out)
        if i < last:
            linear(text, f"{of}.attn.to_add_out", weights, "attn.proj", out)
            linear(text, f"{of}.ff_context.net.0.proj", weights, "mlp.fc1", out)
            linear(text, f"{of}.ff_context.net.2", weights, "mlp.fc2", out)
        if i in CONFIG["dual_attention_layers"]:
            linear(image, [f"{of}.attn2.to_{x}" for x in "qkv"], weights, "attn2.qkv", out)
            linear(image, f"{of}.attn2.to_out.0", weights, "attn2.proj", out)
            for x in "qk":
                out[f"{image}.attn2.ln_{x}.weight"] = weights[f"{of}.attn2.norm_{x}.weight"]
    swapped = ("final_layer.", f"joint_blocks.{last}.context_block.")
    for name in out:
        if name.startswith(swapped) and ".adaLN_modulation." in name:
            out[name] = swap_halves(out[name])
    left = set(weights) - {"pos_embed.pos_embed"}
    count = sum(w.numel() for name, w in weights.items() if name in left) + out["pos_embed"].numel()
    assert count == sum(w.numel() for w in out.values()), "a weight was left out"
    return {name: weight.contiguous() for name, weight in out.items()}


# --- the transformer with fewer image tokens -----------------------------------------------------------------------


def heads(attn, x, to_q, to_k, to_v, norm_q, norm_k):
    """Queries, keys and values of one stream, [B,H,S,D]."""
    q, k, v = (f(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2) for f in (to_q, to_k, to_v))
    return norm_q(q), norm_k(k), v


def image_heads(attn, x):
    return heads(attn, x, attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k)


def text_heads(attn, x):
    projections = attn.add_q_proj, attn.add_k_proj, attn.add_v_proj
    return heads(attn, x, *projections, attn.norm_added_q, attn.norm_added_k)


def attend(q, k, v):
    """Attention, [B,S,C]."""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def feed_forward(norm, ff, x, shift, scale, gate):
    """The gated feed-forward of one stream."""
    return gate.unsqueeze(1) * ff(norm(x) * (1 + scale[:, None]) + shift[:, None])


def joint_layer(layer, index, tokens, image, text, temb):
    """One layer of two streams; the last hands out no text."""
    tokens.begin_layer(index, image)
    if layer.use_dual_attention:
        normed, gate, *image_ff, normed2, gate2 = layer.norm1(image, emb=temb)
    else:
        normed, gate, *image_ff = layer.norm1(image, emb=temb)
    if layer.context_pre_only:
        text_normed, text_ff = layer.norm1_context(text, temb), None
    else:
        text_normed, text_gate, *text_ff = layer.norm1_context(text, emb=temb)
    of_image, of_text = image_heads(layer.attn, tokens.input(normed)), text_heads(layer.attn, text_normed)
    both = attend(*(torch.cat(pair, dim=2) for pair in zip(of_text, of_image, strict=True)))
    text_out, image_out = both.split([text.shape[1], of_image[0].shape[2]], dim=1)
    image = image + gate.unsqueeze(1) * tokens.output(layer.attn.to_out[0](image_out))
    if layer.use_dual_attention:
        alone = attend(*image_heads(layer.attn2, tokens.input(normed2)))
        image = image + gate2.unsqueeze(1) * tokens.output(layer.attn2.to_out[0](alone))
    image = tokens.after(index, "before_ff", image, *of_image[:2])
    image = image + feed_forward(layer.norm2, layer.ff, image, *image_ff)
    if text_ff is not None:
        text = text + text_gate.unsqueeze(1) * layer.attn.to_add_out(text_out)
        text = text + feed_forward(layer.norm2_context, layer.ff_context, text, *text_ff)
    return tokens.after(index, "after_ff", image, *of_image[:2]), text


def forward(model, run, inputs):
    """The whole transformer."""
    image = model.pos_embed(inputs["hidden_states"])
    text = model.context_embedder(inputs["encoder_hidden_states"])
    temb = model.time_text_embed(inputs["timestep"], inputs["pooled_projections"])
    tokens = run.enter("joint.0", len(model.transformer_blocks), image)
    for index, layer in enumerate(model.transformer_blocks):
        image, text = joint_layer(layer, index, tokens, image, text, temb)
    image = model.proj_out(model.norm_out(tokens.exit(image), temb))
    patch, channels = CONFIG["patch_size"], CONFIG["out_channels"]
    image = image.reshape(-1, HEIGHT, WIDTH, patch, patch, channels)
    return image.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, HEIGHT * patch, WIDTH * patch)


# --- the fixture ---------------------------------------------------------------------------------------------------


def attempt(seed):
    """The model under one seed and what it makes."""
    model = SD3Transformer2DModel(**CONFIG).eval()
    draw_weights(model, seed, GAINS)
    return model, results(model, forward, make_inputs(seed + 1), (HEIGHT, WIDTH), CASES)


def main():
    """Writes the files."""
    seed, (model, (tensors, cases)) = first_clear(attempt)
    folder = os.path.join(HERE, "tests", "fixture")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(CONFIG, file, indent=1)
        file.write("\n")
    save_file(convert(model.half().state_dict()), os.path.join(folder, "mmdit.safetensors"))
    save_file(tensors, os.path.join(folder, "expected.safetensors"))
    facts = dict(seed=seed, batch=BATCH, height=HEIGHT, width=WIDTH, cases=cases)
    with open(os.path.join(folder, "cases.json"), "w", encoding="utf-8") as file:
        json.dump(facts, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    with one_thread():
        main()
