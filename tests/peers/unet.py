"""SD-XL's U-Net of diffusers with generated weights, and inputs for it."""

import json
import math
from pathlib import Path

import diffusers
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

# unet/config.json of stabilityai/stable-diffusion-xl-base-1.0, as far as it differs from diffusers' defaults.
SDXL = dict(
    sample_size=128,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(320, 640, 1280),
    layers_per_block=2,
    cross_attention_dim=2048,
    attention_head_dim=(5, 10, 20),
    transformer_layers_per_block=(1, 2, 10),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)


def generated_unet(config, dtype, device, unfused):
    """diffusers' U-Net with weights of variance 1 / fan-in. It is made in its dtype from the start. `config` is a checkpoint's
    folder, or None for SD-XL base; `unfused` stores attention maps."""
    fields = SDXL
    if config:
        fields = json.loads((Path(config) / "unet/config.json").read_text())
        fields = {key: value for key, value in fields.items() if not key.startswith("_")}
    diffusers.utils.logging.set_verbosity_error()
    with torch.device("meta"):
        unet = UNet2DConditionModel(**fields).to(DTYPES[dtype])
    unet = unet.to_empty(device=device).eval().requires_grad_(False)
    generator = torch.Generator(device).manual_seed(1)
    for name, weight in unet.named_parameters():
        if weight.ndim == 1:
            weight.fill_(1.0 if name.endswith("weight") else 0.0)
        else:
            deviation = 1.0 / math.sqrt(weight[0].numel())
            weight.uniform_(-math.sqrt(3) * deviation, math.sqrt(3) * deviation, generator=generator)
    if unfused:
        unet.set_attn_processor(AttnProcessor())
    return unet


def inputs(unet, dtype, size, factor, batch):
    """Positional and named inputs of an evaluation at `size` pixels, `factor` pixels a latent."""
    generator = torch.Generator().manual_seed(2)
    side, config = size // factor, unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    device = unet.device
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(device, DTYPES[dtype])
    pixels = float(size)
    # tomesd looks for the latents among the positional arguments
    positional = (draw(batch, config.in_channels, side, side), torch.tensor(500.0, device=device))
    return positional, dict(
        encoder_hidden_states=draw(batch, 77, config.cross_attention_dim),
        added_cond_kwargs=dict(
            text_embeds=draw(batch, pooled),
            time_ids=torch.tensor([[pixels, pixels, 0.0, 0.0, pixels, pixels]] * batch).to(device, DTYPES[dtype]),
        ),
    )
