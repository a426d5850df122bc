"""Decodes fixed latents with diffusers' AutoencoderTiny and published TAESD weights.

    ATEDM_TAESDXL=DIR python taesd_reference.py OUT      writes OUT/taesd.safetensors and OUT/taesd.png; OUT is
                                                         target/parity/taesd by default

DIR holds taesdxl_decoder.safetensors (and taesdxl_encoder.safetensors), whose tensors are named as in the original's
plain sequence of layers. OUT/vae is the same model as a diffusers folder.
"""

import os
import sys

import checkpoints  # noqa: F401  (one thread, quiet)
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))


def load_taesd(folder):
    """The autoencoder. The decoder's first layer in the files, a clamp, is not a layer in diffusers."""
    tensors = {}
    for part, shift in (("encoder", 0), ("decoder", 1)):
        for key, value in load_file(os.path.join(folder, f"taesdxl_{part}.safetensors")).items():
            index, rest = key.split(".", 1)
            tensors[f"{part}.layers.{int(index) - shift}.{rest}"] = value.float()
    model = AutoencoderTiny()
    model.load_state_dict(tensors)
    return model


def fixed_latents():
    """[2,4,12,10]: noise like the sampler's latents, and a smooth field that reaches the clamp."""
    noise = torch.randn(1, 4, 12, 10, generator=torch.Generator().manual_seed(31))
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(10.0), indexing="ij")
    field = torch.stack([4 * torch.sin(0.5 * x + c) * torch.cos(0.4 * y - c) for c in range(4)])
    return torch.cat([noise, field.unsqueeze(0)])


def main(arguments):
    folder = os.environ.get("ATEDM_TAESDXL")
    if not folder:
        sys.exit("set ATEDM_TAESDXL to the folder with the TAESD weights")
    out = arguments[0] if arguments else os.path.join(HERE, "..", "..", "target", "parity", "taesd")
    os.makedirs(out, exist_ok=True)
    model = load_taesd(folder)
    latents = fixed_latents()
    with torch.no_grad():
        image = model.decode(latents / model.config.scaling_factor).sample
    save_file(dict(latents=latents, image=image), os.path.join(out, "taesd.safetensors"))
    model.save_pretrained(os.path.join(out, "vae"))
    pixels = (image / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)
    Image.fromarray(torch.cat(list(pixels), dim=1).numpy()).save(os.path.join(out, "taesd.png"))
    print(f"image {list(image.shape)}, mean {image.mean():.6f}, std {image.std():.6f}")


if __name__ == "__main__":
    main(sys.argv[1:])
