"""Runs diffusers on a checkpoint, unpruned or with the AT-EDM of atedm_reference.py, and writes the results.

    python reference.py MODEL CASE.json OUT      OUT/latents.safetensors, final_latents.safetensors, images.safetensors,
                                                 image-0.png …, and with pruning kept.safetensors and kept.json
    python reference.py --check DIR              DIR holds model/, case.json, latents and final latents: runs it again

A case is a dict with prompts, steps, guidance_scale, width and height. It may also have negative_prompt, scheduler, seed (the
generator that draws the latents and a stochastic sampler's noise), latents (a file; its tensor is standard normal, before the
sampler's scaling), prune (the options as `key=value,…`; "" is AT-EDM with its defaults) and text (the pipeline's keywords for its
texts, such as embeddings, in place of the prompts).
"""

import contextlib
import json
import os
import sys

import checkpoints
import numpy
import torch
from atedm_reference import AtEdm, parse_options
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
)
from PIL import Image
from safetensors.torch import load_file, save_file

# The program's sampler names: the class and what it changes in the checkpoint's own scheduler config.
SCHEDULERS = {
    "euler": (EulerDiscreteScheduler, dict(use_karras_sigmas=False)),
    "euler-karras": (EulerDiscreteScheduler, dict(use_karras_sigmas=True)),
    "euler-trailing": (EulerDiscreteScheduler, dict(timestep_spacing="trailing", use_karras_sigmas=False)),
    "euler-a": (EulerAncestralDiscreteScheduler, {}),
    "ddim": (DDIMScheduler, dict(clip_sample=False, set_alpha_to_one=False)),
    "dpm++2m": (DPMSolverMultistepScheduler, dict(use_karras_sigmas=False)),
    "dpm++2m-karras": (DPMSolverMultistepScheduler, dict(use_karras_sigmas=True)),
    "lcm": (LCMScheduler, {}),
}


def use_scheduler(pipe, name):
    """Replaces the pipeline's sampler and keeps the checkpoint's own noise schedule."""
    if name:
        cls, changes = SCHEDULERS[name]
        pipe.scheduler = cls.from_config(pipe.scheduler.config, **changes)


def initial_latents(pipe, case):
    """Standard normal latents [B,4,h,w] of a case."""
    if "latents" in case:
        return load_file(case["latents"])["latents"]
    factor = pipe.vae_scale_factor
    shape = (len(case["prompts"]), 4, case["height"] // factor, case["width"] // factor)
    return torch.randn(shape, generator=torch.Generator().manual_seed(case.get("seed", 0)))


def generate(pipe, case, latents=None):
    """Runs one case. Gives initial and final latents (f32), pictures [B,H,W,3] u8, and the AtEdm run or None.

    If a case has a seed and no `latents`, the pipeline draws them. A stochastic sampler's noise then continues where the latents
    ended."""
    own = pipe.scheduler
    use_scheduler(pipe, case.get("scheduler"))
    start = initial_latents(pipe, case) if latents is None else latents
    drawn_by_pipeline = latents is None and "latents" not in case
    last = {}
    run = None
    if case.get("prune") is not None:
        run = AtEdm(pipe.unet, parse_options(case["prune"]), case["steps"])

    def after_step(_, index, __, tensors):
        last["latents"] = tensors["latents"].clone()
        if run:
            run.begin_step(index + 1)
        return {}

    negative = case.get("negative_prompt")
    negatives = None if negative is None else [negative] * len(case["prompts"])
    text = case.get("text") or dict(prompt=case["prompts"], negative_prompt=negatives)
    with torch.no_grad(), run or contextlib.nullcontext():
        images = pipe(
            **text,
            num_inference_steps=case["steps"],
            guidance_scale=case["guidance_scale"],
            width=case["width"],
            height=case["height"],
            generator=torch.Generator().manual_seed(case.get("seed", 0)),
            latents=None if drawn_by_pipeline else start.clone(),
            callback_on_step_end=after_step,
            output_type="pil",
        ).images
    pipe.scheduler = own
    pictures = torch.from_numpy(numpy.stack([numpy.asarray(i) for i in images]))
    return start, last["latents"], pictures, run


def kept_tensors(run):
    """The records of a pruned run as tensors and a list that says what they are."""
    tensors, entries = {}, []
    for r in run.records:
        name = f"step.{r['step']}.{r['block']}.layer.{r['layer']}"
        tensors[name + ".kept"] = r["kept"].to(torch.int32)
        tensors[name + ".source"] = r["source"].to(torch.int32)
        tensors[name + ".votes"] = r["votes"].to(torch.int32)
        tensors[name + ".scores"] = r["scores"].float()
        entries.append(dict(name=name, step=r["step"], block=r["block"], layer=r["layer"]))
    return tensors, entries


def write_case(pipe, case, folder, latents=None):
    """Runs one case and writes its files."""
    os.makedirs(folder, exist_ok=True)
    start, final, pictures, run = generate(pipe, case, latents)
    save_file({"latents": start.contiguous()}, os.path.join(folder, "latents.safetensors"))
    save_file({"latents": final.contiguous()}, os.path.join(folder, "final_latents.safetensors"))
    save_file({"images": pictures.contiguous()}, os.path.join(folder, "images.safetensors"))
    for i, picture in enumerate(pictures):
        Image.fromarray(picture.numpy()).save(os.path.join(folder, f"image-{i}.png"))
    if run:
        tensors, entries = kept_tensors(run)
        save_file({k: v.contiguous() for k, v in tensors.items()}, os.path.join(folder, "kept.safetensors"))
        margins = {kind: run.margin(kind) for kind in ("kept", "copy", "stop")}
        with open(os.path.join(folder, "kept.json"), "w", encoding="utf-8") as f:
            json.dump(dict(margins=margins, prunings=entries), f, indent=1)
    return start, final, pictures, run


def relative_l2(a, b):
    """|a - b| / |b|."""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def check(folder):
    """Runs a folder's case.json again and compares the final latents."""
    with open(os.path.join(folder, "case.json"), encoding="utf-8") as f:
        case = json.load(f)
    case["latents"] = os.path.join(folder, "latents.safetensors")
    pipe = checkpoints.load(os.path.join(folder, "model"))
    _, final, _, _ = generate(pipe, case)
    wanted = load_file(os.path.join(folder, "final_latents.safetensors"))["latents"]
    print(f"{folder}: relative L2 {relative_l2(final, wanted):.3g}, largest |x| {wanted.abs().max():.3g}")


def main(arguments):
    if len(arguments) == 2 and arguments[0] == "--check":
        check(arguments[1])
    elif len(arguments) == 3:
        with open(arguments[1], encoding="utf-8") as f:
            case = json.load(f)
        write_case(checkpoints.load(arguments[0]), case, arguments[2])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
