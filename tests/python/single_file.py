"""Writes tests/fixtures/single_file.json: how tensors of diffusers folders are named in single-file checkpoints (LDM, sgm).

    python single_file.py ../fixtures

The tables come from the layout of the original code, not from this project's loader. Everything is checked here: diffusers' own
conversion must turn the original names back into the folder's, tensor by tensor (tiny-a), or name by name and shape by shape (SD-XL
base, SSD-1B and Vega, without data).

The file also holds token numbers of CLIP's vocabulary, if its source is given as a second argument (see clip_vocabulary.py):

    python single_file.py ../fixtures bpe_simple_vocab_16e6.txt.gz
"""

import gzip
import json
import os
import pathlib
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils as reference
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

torch.set_num_threads(1)

UNET, VAE = "model.diffusion_model.", "first_stage_model."
FIRST, SECOND = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."

# diffusers' name within a residual block, and the original one
UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_RESNET = {"conv_shortcut": "nin_shortcut"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
TEXT_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def has_attention(kind):
    return "CrossAttn" in kind


def unet_modules(config):
    """Pairs of module paths: diffusers', and the original one. Blocks are counted through all levels."""
    down, up = config["down_block_types"], config["up_block_types"]
    layers = config["layers_per_block"]
    pairs = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    number = 0
    for level, kind in enumerate(down):
        for layer in range(layers):
            number += 1
            pairs[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{number}.0"
            if has_attention(kind):
                pairs[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{number}.1"
        if level + 1 < len(down):
            number += 1
            pairs[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
    pairs["mid_block.resnets.0"] = "middle_block.0"
    if config.get("mid_block_type", "UNetMidBlock2DCrossAttn") == "UNetMidBlock2DCrossAttn":
        pairs["mid_block.attentions.0"] = "middle_block.1"
        pairs["mid_block.resnets.1"] = "middle_block.2"
    number = -1
    for stage, kind in enumerate(up):
        for layer in range(layers + 1):
            number += 1
            pairs[f"up_blocks.{stage}.resnets.{layer}"] = f"output_blocks.{number}.0"
            if has_attention(kind):
                pairs[f"up_blocks.{stage}.attentions.{layer}"] = f"output_blocks.{number}.1"
        if stage + 1 < len(up):
            last = 2 if has_attention(kind) else 1
            pairs[f"up_blocks.{stage}.upsamplers.0.conv"] = f"output_blocks.{number}.{last}.conv"
    return pairs


def vae_modules(config):
    levels, layers = len(config["block_out_channels"]), config["layers_per_block"]
    pairs = {"encoder.conv_norm_out": "encoder.norm_out", "decoder.conv_norm_out": "decoder.norm_out"}
    for side in ["encoder", "decoder"]:
        pairs[f"{side}.mid_block.resnets.0"] = f"{side}.mid.block_1"
        pairs[f"{side}.mid_block.resnets.1"] = f"{side}.mid.block_2"
        pairs[f"{side}.mid_block.attentions.0"] = f"{side}.mid.attn_1"
    for level in range(levels):
        for layer in range(layers):
            pairs[f"encoder.down_blocks.{level}.resnets.{layer}"] = f"encoder.down.{level}.block.{layer}"
        pairs[f"encoder.down_blocks.{level}.downsamplers.0"] = f"encoder.down.{level}.downsample"
        # the original decoder numbers its levels as the encoder does, diffusers from the deepest one
        stage = levels - 1 - level
        for layer in range(layers + 1):
            pairs[f"decoder.up_blocks.{stage}.resnets.{layer}"] = f"decoder.up.{level}.block.{layer}"
        pairs[f"decoder.up_blocks.{stage}.upsamplers.0"] = f"decoder.up.{level}.upsample"
    return pairs


def replaced(name, pairs):
    """The name with the longest known module path at its beginning replaced; the module, if one was found."""
    found = max((module for module in pairs if name.startswith(module + ".")), key=len, default=None)
    return (pairs[found] + name[len(found) :], found) if found else (name, None)


def within(name, module, inner):
    """The rest of `name` after the module, its own beginning replaced."""
    rest = name[len(module) + 1 :]
    new, _ = replaced(rest, inner)
    return name[: len(module) + 1] + new


def original_unet(name, pairs):
    _, module = replaced(name, pairs)
    if module and ".resnets." in module:
        name = within(name, module, UNET_RESNET)
    return UNET + replaced(name, pairs)[0]


def original_vae(name, pairs):
    _, module = replaced(name, pairs)
    if module and ".resnets." in module:
        name = within(name, module, VAE_RESNET)
    if module and ".attentions." in module:
        name = within(name, module, VAE_ATTENTION)
    return VAE + replaced(name, pairs)[0]


SECOND_WHOLE = {
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
}


def single_file(folder):
    """All tensors of a diffusers folder under their original names."""
    config = lambda part: json.loads((folder / part / "config.json").read_text())
    load = lambda part: load_file(next((folder / part).glob("*.safetensors")))
    tensors = {}
    pairs = unet_modules(config("unet"))
    for name, tensor in load("unet").items():
        tensors[original_unet(name, pairs)] = tensor
    pairs = vae_modules(config("vae"))
    for name, tensor in load("vae").items():
        is_product = ".attentions." in name and name.endswith("weight") and tensor.ndim == 2
        tensors[original_vae(name, pairs)] = tensor[:, :, None, None] if is_product else tensor
    for name, tensor in load("text_encoder").items():
        name = name if name.startswith("text_model.") else f"text_model.{name}"
        tensors[FIRST + name] = tensor
    second = load("text_encoder_2")
    for name, tensor in second.items():
        if name in SECOND_WHOLE:
            turned = tensor.T.contiguous() if name == "text_projection.weight" else tensor
            tensors[SECOND + SECOND_WHOLE[name]] = turned
            continue
        _, _, _, number, rest = name.split(".", 4)
        at = f"{SECOND}transformer.resblocks.{number}."
        if "_proj." in rest and "out_proj" not in rest:
            leaf = rest.rsplit(".", 1)[1]
            base = name.rsplit(".", 2)[0]
            stacked = torch.cat([second[f"{base}.{which}_proj.{leaf}"] for which in "qkv"])
            tensors[f"{at}attn.in_proj_{leaf}"] = stacked
        else:
            tensors[at + replaced(rest, TEXT_LAYER)[0]] = tensor
    return tensors


def check_folder(folder):
    """diffusers' own conversion gives the folder's tensors again."""
    tensors = single_file(folder)
    config = lambda part: json.loads((folder / part / "config.json").read_text())
    load = lambda part: load_file(next((folder / part).glob("*.safetensors")))

    def same(back, part):
        expected = load(part)
        assert back.keys() == expected.keys(), (part, back.keys() ^ expected.keys())
        assert all(torch.equal(back[name], expected[name]) for name in expected), part

    same(reference.convert_ldm_unet_checkpoint(dict(tensors), config("unet")), "unet")
    same(reference.convert_ldm_vae_checkpoint(dict(tensors), config("vae")), "vae")
    same(reference.convert_ldm_clip_checkpoint(dict(tensors)), "text_encoder")
    with init_empty_weights():
        model = CLIPTextModelWithProjection(CLIPTextConfig(**config("text_encoder_2")))
    same(reference.convert_open_clip_checkpoint(model, dict(tensors), prefix=SECOND), "text_encoder_2")


BASE = dict(
    sample_size=128,
    block_out_channels=[320, 640, 1280],
    layers_per_block=2,
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    attention_head_dim=[5, 10, 20],
    cross_attention_dim=2048,
    transformer_layers_per_block=[1, 2, 10],
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
# two distilled U-Nets with their published configurations
UNETS = {
    "sdxl-base": BASE,
    "ssd-1b": {
        **BASE,
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": [1, [2, 2], [4, 4]],
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    },
    "vega": {
        **BASE,
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": [1, [1, 1], [2, 2]],
        "reverse_transformer_layers_per_block": [[2, 2, 2], [1, 1, 1], 1],
    },
}
SDXL_VAE = dict(
    block_out_channels=[128, 256, 512, 512],
    down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4,
    layers_per_block=2,
    scaling_factor=0.13025,
    sample_size=1024,
)


def check_shapes(name, config):
    with init_empty_weights():
        model = UNet2DConditionModel(**config)
    pairs = unet_modules(config)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    tensors = {original_unet(name, pairs): torch.empty(shape, device="meta") for name, shape in expected.items()}
    back = reference.convert_ldm_unet_checkpoint(tensors, config)
    assert {name: tensor.shape for name, tensor in back.items()} == expected, name
    return pairs, len(expected)


def check_vae():
    with init_empty_weights():
        model = AutoencoderKL(**SDXL_VAE)
    pairs = vae_modules(SDXL_VAE)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    tensors = {}
    for name, shape in expected.items():
        shape = [*shape, 1, 1] if ".attentions." in name and len(shape) == 2 else shape
        tensors[original_vae(name, pairs)] = torch.empty(shape, device="meta")
    back = reference.convert_ldm_vae_checkpoint(tensors, SDXL_VAE)
    assert {name: tensor.shape for name, tensor in back.items()} == expected
    return pairs, len(expected)


PROMPTS = [
    "",
    "a photo of a cat",
    "an astronaut riding a horse on mars, highly detailed, 8k",
    "it's 3 o'clock!! (at the café) — naïve façade #42",
    "<|EndOfText|> STARTS here !",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "一只猫 🐈 на луне",
    " ".join(["word"] * 100),
]


def tokens(source):
    """Token numbers of both tokenizers of SD-XL, which differ in their padding."""
    lines = gzip.open(source, "rt", encoding="utf-8").read().split("\n")[1 : 49152 - 256 - 2 + 1]
    from clip_vocabulary import byte_letters

    letters = byte_letters()
    names = letters + [letter + "</w>" for letter in letters] + [line.replace(" ", "") for line in lines]
    names += ["<|startoftext|>", "<|endoftext|>"]
    flags = dict(lstrip=False, normalized=True, rstrip=False, single_word=False)
    start, end = (dict(content=text, **flags) for text in names[-2:])
    result = {"prompts": PROMPTS}
    for folder, pad in [("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")]:
        special = dict(bos_token=start, eos_token=end, unk_token=end, pad_token=pad)
        typed = {k: dict(__type="AddedToken", **v) if isinstance(v, dict) else v for k, v in special.items()}
        settings = dict(
            add_prefix_space=False, do_lower_case=True, errors="replace", model_max_length=77, tokenizer_class="CLIPTokenizer"
        )
        with tempfile.TemporaryDirectory() as place:
            write = lambda name, text: pathlib.Path(place, name).write_text(text, encoding="utf-8")
            write("vocab.json", json.dumps({token: number for number, token in enumerate(names)}))
            write("merges.txt", "#version: 0.2\n" + "\n".join(lines) + "\n")
            write("special_tokens_map.json", json.dumps(special))
            write("tokenizer_config.json", json.dumps({**settings, **typed}))
            tokenizer = CLIPTokenizer.from_pretrained(place)
            encoded = tokenizer(PROMPTS, padding="max_length", max_length=77, truncation=True)
            result[folder] = encoded["input_ids"]
    return result


def main(fixtures, source=None):
    fixtures = pathlib.Path(fixtures)
    check_folder(fixtures / "tiny-a")
    config = lambda part: json.loads((fixtures / "tiny-a" / part / "config.json").read_text())
    models = {"tiny-a": {"unet": unet_modules(config("unet")), "vae": vae_modules(config("vae"))}}
    vae, vae_tensors = check_vae()
    for name, settings in UNETS.items():
        pairs, count = check_shapes(name, settings)
        models[name] = {"unet": pairs, "vae": vae, "unet_config": settings, "unet_tensors": count, "vae_tensors": vae_tensors}
    document = {
        "inner": {
            "unet_resnet": UNET_RESNET,
            "vae_resnet": VAE_RESNET,
            "vae_attention": VAE_ATTENTION,
            "text_layer": TEXT_LAYER,
            "text_whole": SECOND_WHOLE,
        },
        "models": models,
    }
    out = fixtures / "single_file.json"
    out.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{out}: {out.stat().st_size} bytes")
    if source:
        out = fixtures / "clip_tokens.json"
        out.write_text(json.dumps(tokens(source), ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
