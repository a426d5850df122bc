"""Writes small SD-XL checkpoints with random weights, in the folder layout of diffusers.

    python checkpoints.py DIR [NAME ...]        writes DIR/NAME for every named configuration (all by default)

Weights are random but have an effect. Attention logits are scaled up, so that attention maps have peaks and rounding does not decide
the ranking of tokens. The last convolutions are scaled so that predictions and pictures have a sensible spread.
"""

import json
import os
import shutil
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import diffusers
import transformers
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

torch.set_num_threads(1)
diffusers.utils.logging.disable_progress_bar()
diffusers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

BOS, EOS = "<|startoftext|>", "<|endoftext|>"

# The word pieces are learnt from these lines.
CORPUS = """
a photo of a red circle on a blue background
a painting of a small cat in the garden, highly detailed
an astronaut riding a horse on the moon, watercolor
a large green square left of a yellow star
two dogs running along the beach at sunset, 8k
blurry, low quality, distorted, watermark
a portrait of an old man with a grey beard in the rain
the quick brown fox jumps over the lazy dog
it's a castle on a hill; the sky is purple and orange
"""

# One row per checkpoint. unet: channels, depth (transformer layers per level, 0: no attention there), heads (what
# diffusers calls attention_head_dim), layers (per block), linear (projection), groups. vae: channels, groups, mid
# (attention in the middle). text, text_2: width, heads, layers, activation. context: longest prompt in tokens.
CONFIGS = {
    "tiny-a": dict(
        seed=1,
        unet=dict(channels=[8, 16, 24], depth=[0, 2, 3], heads=[1, 2, 3], layers=1, linear=True, groups=4),
        vae=dict(channels=[8, 8, 16], groups=4, mid=True, layers=1),
        text=dict(width=16, heads=2, layers=3, act="quick_gelu"),
        text_2=dict(width=24, heads=2, layers=3, act="gelu", projection=16),
        context=77,
        tokenizer="files",
        scheduler=dict(timestep_spacing="leading", steps_offset=1),
        dtype="float16",
        legacy_eos=True,
    ),
    "tiny-b": dict(
        seed=2,
        unet=dict(channels=[8, 24], depth=[1, 3], heads=[2, 3], layers=2, linear=False, groups=4),
        vae=dict(channels=[8, 8, 16, 16], groups=4, mid=False, layers=1),
        text=dict(width=16, heads=4, layers=2, act="quick_gelu"),
        text_2=dict(width=16, heads=1, layers=4, act="gelu", projection=24),
        context=24,
        tokenizer="json",
        scheduler=dict(timestep_spacing="trailing"),
        force_zeros=False,
        dtype="float16",
        text_prefix=False,
        scheduler_extras=False,
    ),
    "linspace-karras": dict(
        seed=3,
        unet=dict(channels=[32, 64, 64], depth=[0, 1, 4], heads=4, layers=1, linear=True, groups=16),
        vae=dict(channels=[16, 16, 32, 32], groups=8, mid=True, layers=2),
        text=dict(width=32, heads=2, layers=3, act="quick_gelu"),
        text_2=dict(width=40, heads=5, layers=4, act="gelu", projection=32),
        context=32,
        tokenizer="files",
        scheduler=dict(timestep_spacing="linspace", use_karras_sigmas=True),
        variant="both",
    ),
    "every-level": dict(
        seed=4,
        unet=dict(channels=[16, 32, 64], depth=[1, 2, 2], heads=[2, 2, 8], layers=2, linear=True, groups=8),
        vae=dict(channels=[8, 16], groups=4, mid=True, layers=2),
        text=dict(width=24, heads=3, layers=2, act="gelu"),
        text_2=dict(width=24, heads=3, layers=3, act="quick_gelu", projection=40),
        context=48,
        tokenizer="json",
        scheduler=dict(timestep_spacing="leading", steps_offset=1),
        shards="3MB",
    ),
    "half-only": dict(
        seed=5,
        unet=dict(channels=[24, 48], depth=2, heads=[3, 6], layers=1, linear=False, groups=6),
        vae=dict(channels=[12, 24, 24], groups=3, mid=True, layers=1, post_quant=False),
        text=dict(width=16, heads=2, layers=2, act="quick_gelu"),
        text_2=dict(width=32, heads=4, layers=2, act="gelu", projection=32),
        context=77,
        tokenizer="files",
        scheduler=dict(timestep_spacing="trailing", use_karras_sigmas=True),
        variant="only",
        force_zeros=False,
    ),
    "taesd": dict(
        seed=6,
        unet=dict(channels=[16, 32, 32], depth=[0, 2, 2], heads=[1, 2, 2], layers=1, linear=True, groups=8),
        vae=dict(tiny=True, width=8, blocks=[2, 1, 2, 1]),
        text=dict(width=16, heads=2, layers=2, act="quick_gelu"),
        text_2=dict(width=16, heads=2, layers=2, act="gelu", projection=16),
        context=24,
        tokenizer="json",
        scheduler=dict(timestep_spacing="leading", steps_offset=1),
    ),
}

TIME_IDS = 6
TIME_IDS_WIDTH = 8


# --- the tokenizer -------------------------------------------------------------------------------------------------


def byte_symbols():
    """The printable character that stands for each byte in byte-level BPE, in CLIP's order ("!" is 0)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in printable]
    symbols = {b: chr(b) for b in printable}
    symbols.update({b: chr(256 + i) for i, b in enumerate(rest)})
    return [symbols[b] for b in printable + rest]


def learn_merges(corpus, count):
    """The `count` most frequent pairs, merged one after the other (ties: the alphabetically first pair)."""
    words = ["".join(c for c in w if c.isalpha()) for w in corpus.lower().split()]
    words = [list(w[:-1]) + [w[-1] + "</w>"] for w in words if w]
    merges = []
    for _ in range(count):
        pairs = {}
        for word in words:
            for pair in zip(word, word[1:]):
                pairs[pair] = pairs.get(pair, 0) + 1
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        for word in words:
            i = 0
            while i + 1 < len(word):
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = ["".join(best)]
                i += 1
    return merges


def vocabulary():
    """token -> id and the merges: bytes, bytes that end a word, merged pairs, then the two special tokens."""
    merges = learn_merges(CORPUS, 96)
    symbols = byte_symbols()
    tokens = [*symbols, *(s + "</w>" for s in symbols), *("".join(m) for m in merges), BOS, EOS]
    return {t: i for i, t in enumerate(tokens)}, merges


def special_token(content):
    """A special token as the older tokenizer files spell it."""
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


def write_tokenizer_files(folder, pad, length):
    """vocab.json, merges.txt and the two small files next to them, as in the SD-XL repository."""
    os.makedirs(folder, exist_ok=True)
    vocab, merges = vocabulary()

    def write(name, value):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            json.dump(value, f, ensure_ascii=False, indent=None if name == "vocab.json" else 2)

    write("vocab.json", vocab)
    with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8") as f:
        f.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    specials = {"bos_token": special_token(BOS), "eos_token": special_token(EOS), "unk_token": special_token(EOS)}
    write("special_tokens_map.json", {**specials, "pad_token": pad})
    write(
        "tokenizer_config.json",
        {
            "add_prefix_space": False,
            **{k: {"__type": "AddedToken", **v} for k, v in specials.items()},
            "do_lower_case": True,
            "errors": "replace",
            "model_max_length": length,
            "pad_token": pad,
            "tokenizer_class": "CLIPTokenizer",
        },
    )


def make_tokenizer(pad, length):
    """The same vocabulary as a transformers object."""
    vocab, merges = vocabulary()
    return CLIPTokenizer(
        vocab=vocab, merges=merges, unk_token=EOS, bos_token=BOS, eos_token=EOS, pad_token=pad, model_max_length=length
    )


# --- the networks --------------------------------------------------------------------------------------------------


def make_text_encoder(cls, spec, context, pad_id, legacy_eos):
    """A small CLIP text encoder whose token embeddings are large enough to matter."""
    vocab, _ = vocabulary()
    model = cls(
        CLIPTextConfig(
            vocab_size=len(vocab),
            hidden_size=spec["width"],
            intermediate_size=3 * spec["width"],
            projection_dim=spec.get("projection", spec["width"]),
            num_hidden_layers=spec["layers"],
            num_attention_heads=spec["heads"],
            max_position_embeddings=context,
            hidden_act=spec["act"],
            bos_token_id=vocab[BOS],
            eos_token_id=2 if legacy_eos else vocab[EOS],
            pad_token_id=pad_id,
        )
    )
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "token_embedding" in name:
                p.normal_(std=0.5)
            elif "position_embedding" in name:
                p.normal_(std=0.3)
            elif name.endswith("bias"):
                p.normal_(std=0.1)
            elif "layer_norm" in name:
                p.normal_(mean=1.0, std=0.1)
            elif "q_proj" in name or "k_proj" in name:
                p.normal_(std=1.5 * p.shape[1] ** -0.5)
            elif "proj" in name or "fc" in name:
                p.normal_(std=0.7 * p.shape[1] ** -0.5)
    return model


def make_unet(spec, context_width, pooled_width):
    """A U-Net from the short table above."""
    channels = spec["channels"]
    depth = spec["depth"]
    depths = [depth] * len(channels) if isinstance(depth, int) else depth
    heads = spec["heads"]
    heads = heads if isinstance(heads, int) else list(heads)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=channels,
        down_block_types=["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths],
        up_block_types=["CrossAttnUpBlock2D" if d else "UpBlock2D" for d in reversed(depths)],
        layers_per_block=spec["layers"],
        transformer_layers_per_block=depth if isinstance(depth, int) else [max(d, 1) for d in depths],
        attention_head_dim=heads,
        cross_attention_dim=context_width,
        norm_num_groups=spec["groups"],
        use_linear_projection=spec["linear"],
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_IDS_WIDTH,
        projection_class_embeddings_input_dim=pooled_width + TIME_IDS * TIME_IDS_WIDTH,
    )
    with torch.no_grad():
        for name, p in unet.named_parameters():
            if name.endswith("bias"):
                p.normal_(std=0.1)
            elif "norm" in name:
                p.normal_(mean=1.0, std=0.1)
            elif "to_q" in name or "to_k" in name:
                p.normal_(std=1.3 * p.shape[1] ** -0.5)
            elif "conv_out" in name:
                p.normal_(std=1.4 * (p[0].numel()) ** -0.5)
            else:
                p.normal_(std=0.9 * (p[0].numel()) ** -0.5)
    return unet


def make_vae(spec):
    """AutoencoderKL, or AutoencoderTiny where the table says so."""
    if spec.get("tiny"):
        width = [spec["width"]] * len(spec["blocks"])
        vae = AutoencoderTiny(
            encoder_block_out_channels=width,
            decoder_block_out_channels=width,
            num_encoder_blocks=list(reversed(spec["blocks"])),
            num_decoder_blocks=spec["blocks"],
            scaling_factor=5.0,
        )
        gain = 1.1
    else:
        n = len(spec["channels"])
        vae = AutoencoderKL(
            block_out_channels=spec["channels"],
            down_block_types=["DownEncoderBlock2D"] * n,
            up_block_types=["UpDecoderBlock2D"] * n,
            layers_per_block=spec["layers"],
            latent_channels=4,
            norm_num_groups=spec["groups"],
            mid_block_add_attention=spec["mid"],
            sample_size=16 * 2 ** (n - 1),
            force_upcast=True,
            scaling_factor=5.0,
            use_quant_conv=spec.get("post_quant", True),
            use_post_quant_conv=spec.get("post_quant", True),
        )
        gain = 0.9
    with torch.no_grad():
        for name, p in vae.named_parameters():
            if name.endswith("bias"):
                p.normal_(std=0.1)
            elif "norm" in name:
                p.normal_(mean=1.0, std=0.1)
            elif "to_q" in name or "to_k" in name:
                p.normal_(std=1.3 * p.shape[1] ** -0.5)
            elif "conv_out" in name:
                p.normal_(std=0.6 * (p[0].numel()) ** -0.5)
            else:
                p.normal_(std=gain * (p[0].numel()) ** -0.5)
        if spec.get("tiny"):
            vae.decoder.layers[-1].weight.mul_(0.05)
            vae.decoder.layers[-1].bias.fill_(0.4)
    return vae


def make_pipeline(config):
    """The whole pipeline of one row, in f32. Weights are rounded to `dtype` first, so that files hold them exactly."""
    torch.manual_seed(config["seed"])
    vocab, _ = vocabulary()
    legacy = config.get("legacy_eos", False)
    text, text_2 = config["text"], config["text_2"]
    scheduler = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
    pipe = StableDiffusionXLPipeline(
        text_encoder=make_text_encoder(CLIPTextModel, text, config["context"], vocab[EOS], legacy),
        text_encoder_2=make_text_encoder(CLIPTextModelWithProjection, text_2, config["context"], 0, legacy),
        tokenizer=make_tokenizer(EOS, config["context"]),
        tokenizer_2=make_tokenizer("!", config["context"]),
        unet=make_unet(config["unet"], text["width"] + text_2["width"], text_2["projection"]),
        vae=make_vae(config["vae"]),
        scheduler=EulerDiscreteScheduler(**scheduler, **config["scheduler"]),
        force_zeros_for_empty_prompt=config.get("force_zeros", True),
        add_watermarker=False,
    )
    if config.get("variant") or config.get("dtype") == "float16":
        for part in (pipe.text_encoder, pipe.text_encoder_2, pipe.unet, pipe.vae):
            part.half()
        if config.get("variant"):
            for part in (pipe.text_encoder, pipe.text_encoder_2, pipe.unet, pipe.vae):
                part.float()
    return pipe


# --- files ---------------------------------------------------------------------------------------------------------


def add_text_prefix(folder):
    """Gives the first text encoder's tensors the prefix `text_model.`, which every published SD-XL has."""
    for name in os.listdir(folder):
        if name.endswith(".safetensors"):
            path = os.path.join(folder, name)
            tensors = load_file(path)
            renamed = {k if k.startswith("text_model.") else "text_model." + k: v for k, v in tensors.items()}
            save_file(renamed, path, metadata={"format": "pt"})


# What SD-XL's scheduler_config.json has besides EulerDiscrete's own fields; DDIM reads them.
SCHEDULER_EXTRAS = dict(clip_sample=False, sample_max_value=1.0, set_alpha_to_one=False, skip_prk_steps=True)


def add_scheduler_fields(folder):
    """Gives the scheduler's config the fields of the published SD-XL."""
    path = os.path.join(folder, "scheduler", "scheduler_config.json")
    with open(path, encoding="utf-8") as f:
        value = json.load(f)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(dict(sorted({**value, **SCHEDULER_EXTRAS}.items())), f, indent=2)
        f.write("\n")


def relabel(folder):
    """Removes the local path from the config files."""
    for root, _, files in os.walk(folder):
        for name in files:
            if name.endswith(".json"):
                path = os.path.join(root, name)
                with open(path, encoding="utf-8") as f:
                    value = json.load(f)
                if isinstance(value, dict) and value.pop("_name_or_path", None) is not None:
                    with open(path, "w", encoding="utf-8") as f:
                        json.dump(value, f, indent=2, ensure_ascii=False)
                        f.write("\n")


def write_checkpoint(folder, config):
    """Writes one checkpoint folder."""
    shutil.rmtree(folder, ignore_errors=True)
    pipe = make_pipeline(config)
    variant = config.get("variant")
    if variant != "only":
        pipe.save_pretrained(folder)
    if variant:
        for part in (pipe.text_encoder, pipe.text_encoder_2, pipe.unet, pipe.vae):
            part.half()
        pipe.save_pretrained(folder, variant="fp16")
    if config.get("shards"):
        shutil.rmtree(os.path.join(folder, "unet"))
        pipe.unet.save_pretrained(os.path.join(folder, "unet"), max_shard_size=config["shards"])
    if config.get("text_prefix", True):
        add_text_prefix(os.path.join(folder, "text_encoder"))
    if config["tokenizer"] == "files":
        for part, pad in (("tokenizer", EOS), ("tokenizer_2", "!")):
            shutil.rmtree(os.path.join(folder, part))
            write_tokenizer_files(os.path.join(folder, part), pad, config["context"])
    if config.get("scheduler_extras", True):
        add_scheduler_fields(folder)
    relabel(folder)


def load(folder):
    """The pipeline of a folder, in f32, with any of the weight files that the folder may have."""
    has_plain = any(
        os.path.exists(os.path.join(folder, "unet", "diffusion_pytorch_model.safetensors" + end))
        for end in ("", ".index.json")
    )
    pipe = StableDiffusionXLPipeline.from_pretrained(
        folder,
        dtype=torch.float32,
        variant=None if has_plain else "fp16",
        local_files_only=True,
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def main(arguments):
    if not arguments:
        sys.exit(__doc__)
    for name in arguments[1:] or CONFIGS:
        folder = os.path.join(arguments[0], name)
        write_checkpoint(folder, CONFIGS[name])
        print(f"{folder}: {sum(p.numel() for p in load(folder).unet.parameters()):,} U-Net parameters")


if __name__ == "__main__":
    main(sys.argv[1:])
