"""Writes a checkpoint of SD-XL's real size with random weights. It is for measuring memory and time, not for pictures.

    python sdxl_sized.py DIR        3.5 billion parameters in f16: 7 GB on the disk, 8 GB of memory

The configuration is that of stabilityai/stable-diffusion-xl-base-1.0. The tokenizers know the few words of checkpoints.py.
"""

import os
import shutil
import sys

from checkpoints import EOS, add_scheduler_fields, add_text_prefix, make_tokenizer, relabel

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

CONTEXT = 77
VOCABULARY = 49408

UNET = dict(
    sample_size=128,
    block_out_channels=[320, 640, 1280],
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    layers_per_block=2,
    transformer_layers_per_block=[1, 2, 10],
    attention_head_dim=[5, 10, 20],
    cross_attention_dim=2048,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
VAE = dict(
    block_out_channels=[128, 256, 512, 512],
    down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4,
    layers_per_block=2,
    latent_channels=4,
    sample_size=1024,
    scaling_factor=0.13025,
)
TEXT = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, hidden_act="quick_gelu", projection_dim=768)
TEXT_2 = dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, hidden_act="gelu", projection_dim=1280)


def filled(make):
    """The model with weights that keep the scale of their inputs. They are in f16 and never held in f32."""
    with torch.device("meta"):
        model = make()
    model = model.half().to_empty(device="cpu")
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.zero_()
            elif "norm" in name:
                p.fill_(1.0)
            elif "embedding" in name and p.dim() == 2:
                p.normal_(std=0.1)
            else:
                p.normal_(std=0.7 * p[0].numel() ** -0.5)
    return model


def text_config(size):
    return CLIPTextConfig(vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, bos_token_id=0, eos_token_id=2, **size)


def main(arguments):
    if len(arguments) != 1:
        sys.exit("usage: python sdxl_sized.py DIR")
    folder = arguments[0]
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(0)
    pipe = StableDiffusionXLPipeline(
        text_encoder=filled(lambda: CLIPTextModel(text_config(TEXT))),
        text_encoder_2=filled(lambda: CLIPTextModelWithProjection(text_config(TEXT_2))),
        tokenizer=make_tokenizer(EOS, CONTEXT),
        tokenizer_2=make_tokenizer("!", CONTEXT),
        unet=filled(lambda: UNet2DConditionModel(**UNET)),
        vae=filled(lambda: AutoencoderKL(**VAE)),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
        ),
        add_watermarker=False,
    )
    pipe.save_pretrained(folder, max_shard_size="20GB")
    add_text_prefix(os.path.join(folder, "text_encoder"))
    add_scheduler_fields(folder)
    relabel(folder)
    print(f"wrote {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
