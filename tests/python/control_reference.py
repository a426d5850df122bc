"""Writes tests/fixtures/control: final latents of diffusers' pipelines with a ControlNet, whole and pruned.

    pip install --no-deps --target DIR tomesd==0.1.3 DeepCache==0.1.1 tgate==1.0.0
    PYTHONPATH=DIR python control_reference.py [OUT]        tests/fixtures/control by default

The ControlNets' weights and the pictures follow formulas, so no file holds them. NAME.json is the `config.json` of a ControlNet.
What runs is diffusers', tomesd's and DeepCache's. Two things are made here: AT-EDM is that of atedm_reference.py, and it and Token
Merging also work in the ControlNet's own blocks, which tomesd patches if it is asked to.

OUT gets a config for each ControlNet, control.json and control.safetensors; tests/fixtures/README.md says what they hold.
"""

import contextlib
import os
import sys

import checkpoints
import numpy
import parity
import reference
import tomesd
import torch
from atedm_reference import AtEdm, parse_options
from diffusers import (
    ControlNetModel,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLControlNetPipeline,
)
from make_fixtures import write_json, write_tensors
from parts_reference import inpainting_unet
from reuse_reference import deepcache
from PIL import Image
from safetensors.torch import load_file
from tomesd_parity import Patched

CLEAR_MERGE = 2e-5
SEEDS_TRIED = 60


def formula(name, shape):
    """The weights of a tensor: hashed indices, scaled by the number of inputs. Norms lie around 1."""
    count = int(numpy.prod(shape))
    seed = numpy.uint32(2166136261)
    with numpy.errstate(over="ignore"):
        for byte in name.encode():
            seed = (seed ^ numpy.uint32(byte)) * numpy.uint32(16777619)
        h = numpy.arange(count, dtype=numpy.uint32) * numpy.uint32(0x9E3779B1) + seed
        h = (h ^ (h >> numpy.uint32(16))) * numpy.uint32(0x85EBCA6B)
        h = (h ^ (h >> numpy.uint32(13))) * numpy.uint32(0xC2B2AE35)
        h ^= h >> numpy.uint32(16)
    uniform = h.astype(numpy.float64) / 2.0**31 - 1
    if name.endswith("bias"):
        values = 0.2 * uniform
    elif "norm" in name:
        values = 1 + 0.2 * uniform
    else:
        gain = 2.2 if "to_q" in name or "to_k" in name else 1.5
        values = gain * uniform / (count // shape[0]) ** 0.5
    return torch.from_numpy(values.astype(numpy.float32)).reshape(list(shape))


def picture(width, height):
    """A board of squares of one colour and of slopes."""
    y, x, c = numpy.meshgrid(numpy.arange(height), numpy.arange(width), numpy.arange(3), indexing="ij")
    board = numpy.where((x // 8 + y // 6 + c) % 2 == 1, 255, (5 * x + 3 * y + 40 * c) % 256)
    return Image.fromarray(board.astype(numpy.uint8))


def control_nets(pipes):
    """A ControlNet for each checkpoint, one without attention, and one whose attention blocks have other depths."""
    factors = {"tiny-a": (8, 12, 16), "tiny-b": (8, 8, 12, 16)}
    nets = {name: ControlNetModel.from_unet(pipe.unet, "rgb", factors[name], False) for name, pipe in pipes.items()}
    own = dict(nets["tiny-a"].config)
    plain = ["DownBlock2D"] * 3
    nets["small"] = ControlNetModel.from_config(
        dict(own, down_block_types=plain, mid_block_type="UNetMidBlock2D", controlnet_conditioning_channel_order="rgb")
    )
    nets["flat"] = ControlNetModel.from_config(dict(own, transformer_layers_per_block=[1, 1, 2]))
    for net in nets.values():
        net.load_state_dict({name: formula(name, value.shape) for name, value in net.state_dict().items()})
        net.eval()
    return nets


def cases():
    def case(name, model="tiny-a", control=None, **more):
        row = dict(prompts=[parity.CIRCLE], steps=5, guidance_scale=5.0, width=64, height=64, scale=1.0, seed=3)
        return dict(name=name, model=model, control=control or model, **{**row, **more})

    two = [parity.CAT, parity.ODD]
    wide = dict(width=56, height=40)
    return [
        case("whole"),
        case("span", steps=10, scale=0.6, start=0.2, end=0.75, prompts=two, negative_prompt=parity.BLURRY),
        case("ragged", guidance_scale=1.0, width=72, height=40, scheduler="ddim", scale=1.5),
        case("tiny-b", "tiny-b", width=96, height=72, scale=0.7),
        case("small", control="small"),
        case("flat", control="flat", scheduler="dpm++2m"),
        case("picture", strength=0.6, end=0.5, scale=0.8, **wide),
        case("mask", strength=0.6, mask=True, **wide),
        case("mask-unet", strength=1.0, mask=True, channels=9, **wide),
        case("at-edm", prune="", steps=7),
        case("at-edm-before-ff", prune="prune_point=before_ff,schedule=constant,ratio=0.5", control="flat"),
        case("at-edm-tiny-b", "tiny-b", prune="schedule=constant,ratio=0.4", width=96, height=72, scale=0.7),
        case("tome", tome=dict(ratio=0.5, max_downsample=4, use_rand=False)),
        case("deepcache", deepcache=dict(cache_interval=3, cache_branch_id=1), steps=8),
        case("deepcache-tiny-b", "tiny-b", deepcache=dict(cache_interval=2, cache_branch_id=4), width=96, height=72),
    ]


@contextlib.contextmanager
def merging(pipe, case):
    """tomesd on the U-Net and on the ControlNet."""
    with Patched(pipe, case["tome"], 0) as run:
        tomesd.apply_patch(pipe.controlnet, **case["tome"])
        yield run
        tomesd.remove_patch(pipe.controlnet)


def run(pipes, nets, case, fixtures, seed):
    """Final latents, and the run of the method if there is one."""
    pipe, control = pipes[case["model"]], nets[case["control"]]
    zeros = pipe.config.force_zeros_for_empty_prompt
    components = dict(pipe.components, controlnet=control, force_zeros_for_empty_prompt=zeros)
    extra, start = {}, case.get("strength")
    own = load_file(os.path.join(fixtures, "tiny-a-expected", "image_to_image.safetensors"))["picture"]
    view = picture(case["width"], case["height"])
    if start is None:
        call = StableDiffusionXLControlNetPipeline(**components)
        extra["image"] = view
    else:
        kind = StableDiffusionXLControlNetInpaintPipeline if case.get("mask") else StableDiffusionXLControlNetImg2ImgPipeline
        if case.get("channels") == 9:
            parts = load_file(os.path.join(fixtures, "parts", "inpainting.safetensors"))
            components["unet"] = inpainting_unet(pipe.unet, parts["conv_in.weight"])
        call = kind(**components)
        extra.update(image=Image.fromarray(own.numpy()), control_image=view, strength=start)
        if case.get("mask"):
            mask = load_file(os.path.join(fixtures, "parts", "inpainting.safetensors"))["mask"]
            extra["mask_image"] = Image.fromarray(mask.numpy())
    call.set_progress_bar_config(disable=True)
    reference.use_scheduler(call, case.get("scheduler"))
    method = contextlib.nullcontext()
    if case.get("prune") is not None:
        method = AtEdm(call.unet, parse_options(case["prune"]), case["steps"], control)
    elif "tome" in case:
        method = merging(call, case)
    elif "deepcache" in case:
        method = deepcache(call, dict(case, options=case["deepcache"]))
    prompts = case["prompts"]
    negative = case.get("negative_prompt")
    with method as entered:

        def after_step(_, index, __, tensors):
            if isinstance(entered, AtEdm):
                entered.begin_step(index + 1)
            return {}

        final = call(
            prompt=prompts,
            negative_prompt=None if negative is None else [negative] * len(prompts),
            num_inference_steps=case["steps"],
            guidance_scale=case["guidance_scale"],
            width=case["width"],
            height=case["height"],
            controlnet_conditioning_scale=case["scale"],
            control_guidance_start=case.get("start", 0.0),
            control_guidance_end=case.get("end", 1.0),
            generator=torch.Generator().manual_seed(seed),
            callback_on_step_end=after_step,
            output_type="latent",
            **extra,
        ).images
    return final, entered


def clear_seed(pipes, nets, case, fixtures):
    """The first seed for which rounding decides nothing in a pruned run."""
    for seed in range(SEEDS_TRIED):
        entered = run(pipes, nets, case, fixtures, seed)[1]
        if isinstance(entered, AtEdm):
            clear = min(entered.margin(kind) / enough for kind, enough in parity.CLEAR.items()) >= 1
        else:
            clear = entered.margin >= CLEAR_MERGE
        if clear:
            return seed
    sys.exit(f"{case['name']}: no clear seed")


def main(arguments):
    fixtures = os.path.join(parity.ROOT, "tests", "fixtures")
    folder = arguments[0] if arguments else os.path.join(fixtures, "control")
    os.makedirs(folder, exist_ok=True)
    out, listed = {}, []
    with torch.no_grad():
        pipes = {name: checkpoints.load(os.path.join(fixtures, name)) for name in ("tiny-a", "tiny-b")}
        nets = control_nets(pipes)
        for name, net in nets.items():
            write_json(os.path.join(folder, f"{name}.json"), dict(net.config, _class_name="ControlNetModel"))
        for case in cases():
            if "prune" in case or "tome" in case:
                case["seed"] = clear_seed(pipes, nets, case, fixtures)
            final, entered = run(pipes, nets, case, fixtures, case["seed"])
            without = run(pipes, nets, dict(case, scale=0.0), fixtures, case["seed"])[0]
            effect = reference.relative_l2(final, without)
            print(f"{case['name']}: seed {case['seed']}, {effect:.3g} from the run without a ControlNet, largest {final.abs().max():.3g}")
            assert effect > 1e-3, "nothing happened"
            if isinstance(entered, AtEdm):
                blocks = {record["block"] for record in entered.records}
                assert any(block.startswith("control-") for block in blocks), "the ControlNet is not pruned"
                case["prunings"] = len(entered.records)
            out[case["name"]] = final
            listed.append(case)
    write_tensors(os.path.join(folder, "control.safetensors"), out)
    write_json(os.path.join(folder, "control.json"), listed)


if __name__ == "__main__":
    main(sys.argv[1:])
