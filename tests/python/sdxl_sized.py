"""Writes a checkpoint of SD-XL's real size with random weights. It is for measuring memory and time, not for pictures.

    python sdxl_sized.py DIR            3.5 billion parameters in f16: 7 GB on the disk, 8 GB of memory
    python sdxl_sized.py --loras DIR    three LoRAs for it in f16: 0.7 GB

The configuration is that of stabilityai/stable-diffusion-xl-base-1.0. The tokenizers know the few words of checkpoints.py.
"""

import os
import shutil
import sys

from checkpoints import EOS, add_scheduler_fields, add_text_prefix, make_tokenizer, relabel

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file
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


def modules(make, keep):
    """Names and weights (without values) of the linear layers and convolutions that `keep` wants."""
    with torch.device("meta"):
        model = make()
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return [(name, m.weight) for name, m in model.named_modules() if isinstance(m, kinds) and keep(name)]


def lora(path, layers, rank, pattern):
    """A LoRA of this rank. `pattern` names the tensors of a part's module; a weight changes by about a tenth."""
    tensors = {}
    for part, name, weight in layers:
        outputs, inputs, *kernel = weight.shape
        module = pattern(part, name)
        down = torch.randn(rank, inputs, *kernel) * weight[0].numel() ** -0.5
        tensors[module["down"]] = down.half()
        tensors[module["up"]] = (0.1 * torch.randn(outputs, rank, *[1 for _ in kernel]) * rank**-0.5).half()
        if "alpha" in module:
            tensors[module["alpha"]] = torch.tensor(float(rank))
    save_file(tensors, path)


def kohya(part, name):
    module = f"lora_{part}_{name.replace('.', '_')}"
    return dict(down=f"{module}.lora_down.weight", up=f"{module}.lora_up.weight", alpha=f"{module}.alpha")


def peft(part, name):
    return dict(down=f"{part}.{name}.lora_A.weight", up=f"{part}.{name}.lora_B.weight")


def write_loras(folder):
    """One like LCM's (every layer of the U-Net), one of a usual style (attention, feed-forward, text encoders), one of attention."""
    os.makedirs(folder, exist_ok=True)
    torch.manual_seed(0)
    unet = lambda keep: [("unet", *module) for module in modules(lambda: UNet2DConditionModel(**UNET), keep)]
    text = []
    for part, cls, size in (("te1", CLIPTextModel, TEXT), ("te2", CLIPTextModelWithProjection, TEXT_2)):
        found = modules(lambda: cls(text_config(size)), lambda name: ".layers." in name)
        text += [(part, name if name.startswith("text_model.") else f"text_model.{name}", weight) for name, weight in found]
    transformers = lambda name: ".transformer_blocks." in name
    lora(os.path.join(folder, "every-layer.safetensors"), unet(lambda _: True), 64, kohya)
    lora(os.path.join(folder, "style.safetensors"), unet(transformers) + text, 32, kohya)
    lora(os.path.join(folder, "attention.safetensors"), unet(lambda name: ".attn" in name), 32, peft)


def main(arguments):
    if len(arguments) == 2 and arguments[0] == "--loras":
        return write_loras(arguments[1])
    if len(arguments) != 1:
        sys.exit("usage: python sdxl_sized.py [--loras] DIR")
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
