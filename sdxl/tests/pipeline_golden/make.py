"""Writes runs.safetensors next to this file: whole runs of diffusers on tests/fixtures/tiny-a with seeds, samplers that
draw noise, own sizes, several images a prompt, a consistency-distilled U-Net (tiny-a's with a guidance input), several evaluations a
step, and zero terminal SNR with rescaled guidance.

    target/python/bin/python sdxl/tests/pipeline_golden/make.py
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..", "..")
sys.path.insert(0, os.path.join(ROOT, "tests", "python"))

import torch

import checkpoints
from diffusers import (
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from safetensors.torch import save_file

CIRCLE, CAT = "a photo of a red circle on a blue background", "a small cat"


def run(pipe, prompts, **more):
    """Final latents of a run with seed 3."""
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    size = dict(width=64, height=48, output_type="latent")
    return pipe(prompts, generator=generator, **size, **more).images.contiguous()


def main():
    pipe = checkpoints.load(os.path.join(ROOT, "tests", "fixtures", "tiny-a"))
    base = pipe.scheduler.config
    out = {}

    unet = UNet2DConditionModel.from_config(dict(pipe.unet.config, time_cond_proj_dim=12))
    unet.load_state_dict(pipe.unet.state_dict(), strict=False)
    weight = unet.time_embedding.cond_proj.weight
    with torch.no_grad():
        weight.copy_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)))
    out["cond_proj.weight"] = weight.detach().clone()
    parts = {**pipe.components, "unet": unet.eval(), "scheduler": LCMScheduler.from_config(base)}
    distilled = StableDiffusionXLPipeline(**parts)
    for scale in (8.0, 1.5):
        out[f"lcm.{scale}"] = run(distilled, [CIRCLE, CAT], num_inference_steps=4, guidance_scale=scale)

    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(base)
    sizes = dict(original_size=(100, 200), crops_coords_top_left=(8, 16), target_size=(50, 70))
    out["euler-a"] = run(pipe, [CIRCLE, CAT], num_inference_steps=5, guidance_scale=6.0, **sizes)
    pipe.scheduler = DDIMScheduler.from_config(base)
    out["ddim"] = run(pipe, [CIRCLE], num_inference_steps=5, guidance_scale=6.0, num_images_per_prompt=3)
    pipe.scheduler = HeunDiscreteScheduler.from_config(base)
    out["heun"] = run(pipe, [CIRCLE, CAT], num_inference_steps=5, guidance_scale=6.0)
    pipe.scheduler = UniPCMultistepScheduler.from_config(base)
    out["unipc"] = run(pipe, [CIRCLE], num_inference_steps=6, guidance_scale=6.0)
    zero = dict(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    pipe.scheduler = EulerDiscreteScheduler.from_config(base, **zero)
    out["zero-snr"] = run(pipe, [CIRCLE, CAT], num_inference_steps=6, guidance_scale=6.0, guidance_rescale=0.7)
    save_file(out, os.path.join(HERE, "runs.safetensors"))


if __name__ == "__main__":
    main()
