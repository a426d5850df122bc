"""Writes tests/fixtures/parts: autoencoders from elsewhere, runs that paint a part of a picture again, and pictures of other sizes.

    python parts_reference.py [DIR]        tests/fixtures by default

The autoencoders' weights follow a formula, so no file holds them. The nine-channel U-Net is tiny-a's with further inputs in its
first convolution. Everything else is diffusers'.
"""

import os
import sys

import checkpoints
import numpy
import parity
import reference
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, HeunDiscreteScheduler, StableDiffusionXLInpaintPipeline
from make_fixtures import normal, write_json, write_tensors
from PIL import Image, ImageOps
from safetensors.torch import load_file

HERE = os.path.dirname(os.path.abspath(__file__))


def formula(name, shape):
    """The weights of a tensor: a sine, scaled by the number of inputs."""
    count = 1
    for axis in shape:
        count *= axis
    inputs = count // shape[0] if len(shape) > 1 else 100
    index = torch.arange(count, dtype=torch.float64)
    return (1.2 * torch.sin(0.37 * index + len(name)) / inputs**0.5).reshape(shape).float()


def with_formula(model):
    model.load_state_dict({name: formula(name, value.shape) for name, value in model.state_dict().items()})
    return model.eval()


def autoencoders():
    """Decoded latents of an AutoencoderKL and an AutoencoderTiny, and an encoded picture."""
    kl = with_formula(
        AutoencoderKL(
            block_out_channels=(32, 32, 64),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=32,
            scaling_factor=0.13025,
        )
    )
    tiny = with_formula(
        AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)
    )
    out = {"latents": normal(51, 1, 4, 3, 5), "picture": torch.tanh(normal(52, 1, 3, 16, 24))}
    for name, vae in (("kl", kl), ("tiny", tiny)):
        out[f"{name}.image"] = vae.decode(out["latents"]).sample
        encoded = vae.encode(out["picture"])
        out[f"{name}.encoded"] = encoded.latent_dist.mean if name == "kl" else encoded.latents
    return out


def soft_mask():
    """[40,56] u8: a soft disc, white inside, and a thin bar."""
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(56.0), indexing="ij")
    disc = 255 * torch.sigmoid((13 - ((y - 18) ** 2 + (x - 30) ** 2).sqrt()) / 2)
    disc[33:37, 4:20] = 255
    return disc.round().to(torch.uint8)


def inpainting_unet(unet, weight):
    """The U-Net with this first convolution."""
    config = dict(unet.config, in_channels=9)
    wide = type(unet).from_config(config)
    state = {k: v for k, v in unet.state_dict().items()}
    state["conv_in.weight"] = weight
    wide.load_state_dict(state)
    return wide.eval()


def inpainting(fixtures, out):
    """Final latents of runs on tiny-a, by the list that is returned."""
    picture = load_file(os.path.join(fixtures, "tiny-a-expected", "image_to_image.safetensors"))["picture"]
    mask = out["mask"] = soft_mask()
    pipe = checkpoints.load(os.path.join(fixtures, "tiny-a"))
    own = pipe.unet.state_dict()["conv_in.weight"]
    out["conv_in.weight"] = torch.cat([own, 0.2 * normal(53, own.shape[0], 5, 3, 3)], dim=1)
    unets = {4: pipe.unet, 9: inpainting_unet(pipe.unet, out["conv_in.weight"])}
    listed = []

    def case(name, channels, strength, **more):
        row = dict(prompts=[parity.CIRCLE], steps=5, guidance_scale=5.0, seed=11)
        listed.append(dict(dict(name=name, channels=channels, strength=strength), **{**row, **more}))

    for channels in (4, 9):
        case(f"{channels}.whole", channels, 1.0)
        case(f"{channels}.part", channels, 0.6, prompts=[parity.CAT, parity.ODD], seed=12)
        case(f"{channels}.unguided", channels, 0.6, guidance_scale=1.0, scheduler="ddim")
    case("4.heun", 4, 0.6, scheduler="heun")
    case("4.euler-a", 4, 1.0, scheduler="euler-a")
    for row in listed:
        components = dict(pipe.components, unet=unets[row["channels"]])
        inpaint = StableDiffusionXLInpaintPipeline(**components)
        if row.get("scheduler") == "heun":
            inpaint.scheduler = HeunDiscreteScheduler.from_config(pipe.scheduler.config)
        else:
            reference.use_scheduler(inpaint, row.get("scheduler"))
        result = inpaint(
            prompt=row["prompts"],
            image=Image.fromarray(picture.numpy()),
            mask_image=Image.fromarray(numpy.asarray(mask)),
            width=56,
            height=40,
            strength=row["strength"],
            num_inference_steps=row["steps"],
            guidance_scale=row["guidance_scale"],
            generator=torch.Generator().manual_seed(row["seed"]),
            output_type="latent",
        )
        out[row["name"] + ".final_latents"] = result.images
    return listed


def pictures(picture, folder):
    """Writes a photograph that lies on its side and a drawing with transparency. Returns what Pillow makes of them at some sizes,
    by the file's name and the size."""
    upright = Image.fromarray(picture.numpy())
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.save(os.path.join(folder, "photo.jpg"), quality=92, exif=exif.tobytes())
    drawn = upright.convert("RGBA")
    drawn.putalpha(Image.fromarray(numpy.asarray(soft_mask())))
    drawn.save(os.path.join(folder, "drawn.webp"), lossless=True, exact=True)
    out = {}
    for name in ("photo.jpg", "drawn.webp"):
        opened = ImageOps.exif_transpose(Image.open(os.path.join(folder, name)))
        if opened.mode == "RGBA":
            white = Image.new("RGBA", opened.size, "white")
            opened = Image.alpha_composite(white, opened)
        opened = opened.convert("RGB")
        for size in (opened.size, (24, 16), (17, 31), (96, 64)):
            fitted = ImageOps.fit(opened, size, Image.Resampling.LANCZOS)
            out[f"{name} {size[0]}x{size[1]}"] = torch.from_numpy(numpy.array(fitted))
    return out


def main(arguments):
    fixtures = arguments[0] if arguments else os.path.join(HERE, "..", "fixtures")
    folder = os.path.join(fixtures, "parts")
    os.makedirs(folder, exist_ok=True)
    with torch.no_grad():
        write_tensors(os.path.join(folder, "autoencoders.safetensors"), autoencoders())
        out = {}
        listed = inpainting(fixtures, out)
        write_tensors(os.path.join(folder, "inpainting.safetensors"), out)
        write_json(os.path.join(folder, "inpainting.json"), listed)
    picture = load_file(os.path.join(fixtures, "tiny-a-expected", "image_to_image.safetensors"))["picture"]
    write_tensors(os.path.join(folder, "pictures.safetensors"), pictures(picture, folder))


if __name__ == "__main__":
    main(sys.argv[1:])
