"""Writes the golden files of tests/fixtures: two checkpoints with their modules and whole runs, whole runs of the model in the
binary, samplers, torch's randn.

    python make_fixtures.py [DIR]        tests/fixtures by default

tests/fixtures/README.md says what each file holds.
"""

import inspect
import json
import os
import shutil
import sys

import checkpoints
import diffusers
import numpy
import parity
import reference
import torch
import transformers
from atedm_reference import AtEdm, Options, attention_map, attend, g_wpr, over_heads
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image
from safetensors.torch import save_file

CIRCLE, CAT, ODD, BLURRY = parity.CIRCLE, parity.CAT, parity.ODD, parity.BLURRY

TEXTS = [
    "",
    CIRCLE,
    CAT,
    ODD,
    parity.LONG,
    "  Two\t words \n and   spaces ",
    "!!! ... ??? ;-) #1 50% a/b C++",
    "I'm, you're, we've, he'll, she'd, don't",
    "cafe\u0301 \u00c5 \ufb01 \u0130stanbul \u0391\u03a3",
    "x <|endoftext|> y <|startoftext|> z",
    "12 345 6.7e8 1234567890",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u65e5\u672c\u8a9e \u0440\u0443\u0441\u0441\u043a\u0438\u0439",
]


def write_json(path, value):
    """One value. A list has one entry on each line."""
    with open(path, "w", encoding="utf-8") as f:
        if isinstance(value, list):
            f.write("[\n" + ",\n".join(json.dumps(v, ensure_ascii=False) for v in value) + "\n]\n")
        else:
            json.dump(value, f, indent=1, ensure_ascii=False)
            f.write("\n")


def write_tensors(path, tensors):
    """f32 for floats, u32 for integers; u8 stays u8."""

    def plain(t):
        t = t.detach().contiguous().clone()
        if t.dtype == torch.uint8:
            return t
        return t.float() if t.is_floating_point() else t.to(torch.uint32)

    save_file({k: plain(v) for k, v in tensors.items()}, path)


def normal(seed, *shape):
    """Standard normal numbers of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- modules -------------------------------------------------------------------------------------------------------


def text_modules(pipe, out):
    """Token ids, hidden_states[-2] and the pooled projection of three prompts. Returns contexts for the U-Net."""
    for name in ("", "_2"):
        tokenizer, encoder = getattr(pipe, "tokenizer" + name), getattr(pipe, "text_encoder" + name)
        ids = tokenizer(
            [CIRCLE, ODD, parity.LONG],
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        result = encoder(ids, output_hidden_states=True)
        out[f"text_encoder{name}.input_ids"] = ids
        out[f"text_encoder{name}.hidden"] = result.hidden_states[-2]
        if name:
            out["text_encoder_2.pooled"] = result.text_embeds
    context = torch.cat([out["text_encoder.hidden"], out["text_encoder_2.hidden"]], dim=-1)
    return context[:2], out["text_encoder_2.pooled"][:2]


def time_modules(unet, pooled, out):
    """The sinusoids and both embeddings."""
    timesteps = torch.tensor([0.0, 1.0, 19.0, 500.0, 981.0, 999.0, 249.75])
    time_ids = torch.tensor([[64.0, 96.0, 0.0, 0.0, 64.0, 96.0], [1024.0, 768.0, 8.0, 16.0, 512.0, 1536.0]])
    out["time.timesteps"] = timesteps
    out["time.sinusoid"] = unet.time_proj(timesteps)
    out["time.embedding"] = unet.time_embedding(out["time.sinusoid"])
    out["added.time_ids"] = time_ids
    out["added.text_embeds"] = pooled
    out["added.sinusoid"] = unet.add_time_proj(time_ids.flatten()).reshape(2, -1)
    out["added.embedding"] = unet.add_embedding(torch.cat([pooled, out["added.sinusoid"]], dim=-1))
    return time_ids


def convolution_modules(unet, out, paths):
    """A residual block, a downsampler and an upsampler."""
    level = len(unet.down_blocks) - 1
    path = f"down_blocks.{level}.resnets.0"
    resnet = unet.get_submodule(path)
    paths["resnet"] = path
    out["resnet.input"] = normal(11, 2, resnet.in_channels, 7, 5)
    out["resnet.embedding"] = out["time.embedding"][3:5]
    out["resnet.output"] = resnet(out["resnet.input"], out["resnet.embedding"])
    paths["downsample"] = path = "down_blocks.0.downsamplers.0"
    down = unet.get_submodule(path)
    for key, size in (("even", (8, 6)), ("odd", (9, 5))):
        out[f"downsample.{key}.input"] = normal(12, 2, down.channels, *size)
        out[f"downsample.{key}.output"] = down(out[f"downsample.{key}.input"])
    paths["upsample"] = path = "up_blocks.0.upsamplers.0"
    up = unet.get_submodule(path)
    out["upsample.input"] = normal(13, 2, up.channels, 5, 3)
    out["upsample.double.output"] = up(out["upsample.input"])
    out["upsample.9x5.output"] = up(out["upsample.input"], output_size=(9, 5))
    out["upsample.9x6.output"] = up(out["upsample.input"], output_size=(9, 6))


def attention_modules(unet, context, out, paths):
    """A whole attention block, its first layer alone, and that layer's scores."""
    level = len(unet.down_blocks) - 1
    paths["transformer"] = path = f"down_blocks.{level}.attentions.0"
    block = unet.get_submodule(path)
    out["transformer.input"] = normal(14, 2, block.in_channels, 6, 5)
    out["transformer.context"] = context
    out["transformer.output"] = block(out["transformer.input"], encoder_hidden_states=context).sample
    layer = block.transformer_blocks[0]
    x = 2 * normal(15, 2, 30, block.inner_dim)
    out["transformer.layer0.input"] = x
    out["transformer.layer0.output"] = layer(x, encoder_hidden_states=context)
    normed = layer.norm1(x)
    update, q, k = attend(layer.attn1, normed, normed)
    _, q_text, k_text = attend(layer.attn2, layer.norm2(x + update), context)
    for key, a in (("self", attention_map(q, k)), ("cross", attention_map(q_text, k_text))):
        scores, votes = g_wpr(a, Options(), key == "cross")
        out[f"transformer.layer0.{key}.map"] = a
        out[f"transformer.layer0.{key}.scores"] = over_heads(scores, "rms")
        out[f"transformer.layer0.{key}.votes"] = votes


def write_modules(pipe, folder):
    """modules.safetensors and modules.json of one checkpoint."""
    out, paths = {}, {}
    context, pooled = text_modules(pipe, out)
    time_ids = time_modules(pipe.unet, pooled, out)
    convolution_modules(pipe.unet, out, paths)
    attention_modules(pipe.unet, context, out, paths)
    for key, timestep, size in (("a", 981.0, (8, 8)), ("b", 19.0, (10, 7) if len(pipe.unet.down_blocks) < 3 else (10, 6))):
        out[f"unet.{key}.sample"] = normal(16, 2, 4, *size)
        out[f"unet.{key}.timestep"] = torch.tensor([timestep])
        out[f"unet.{key}.output"] = pipe.unet(
            out[f"unet.{key}.sample"],
            torch.tensor(timestep),
            encoder_hidden_states=context,
            added_cond_kwargs=dict(text_embeds=pooled, time_ids=time_ids),
        ).sample
    out["vae.latents"] = 2 * normal(17, 2, 4, 6, 5)
    out["vae.image"] = pipe.vae.decode(out["vae.latents"]).sample
    write_tensors(os.path.join(folder, "modules.safetensors"), out)
    write_json(os.path.join(folder, "modules.json"), dict(prompts=[CIRCLE, ODD, parity.LONG], modules=paths))


# --- whole runs ----------------------------------------------------------------------------------------------------


def fixture_cases(name):
    """The whole runs of a checkpoint."""

    def case(label, width, height, **more):
        row = dict(prompts=[CIRCLE], steps=4, guidance_scale=5.0, width=width, height=height)
        return dict(name=label, **{**row, **more})

    if name == "tiny-a":
        return [
            case("guided", 64, 64),
            case("unguided", 64, 64, guidance_scale=1.0),
            case("negative", 64, 64, negative_prompt=BLURRY),
            case("negative-empty", 64, 64, negative_prompt="", steps=2),
            case("ragged", 72, 40),
            case("batch", 64, 48, prompts=[CAT, ODD], negative_prompt=BLURRY, steps=3),
            case("dpm++2m", 64, 64, scheduler="dpm++2m", steps=6),
            case("at-edm", 64, 64, prune="", steps=7),
            case("at-edm-before-ff", 64, 64, prune="prune_point=before_ff,schedule=constant"),
            case("at-edm-direct", 64, 64, prune="recovery=direct,ratio=0.5", steps=3),
            case("at-edm-direct-before-ff", 64, 64, prune="recovery=direct,prune_point=before_ff,ratio=0.5", steps=3),
            case("at-edm-zero", 64, 64, prune="recovery=zero", steps=3),
            case("at-edm-cross", 64, 64, prune="score=cross", negative_prompt=BLURRY),
            case("at-edm-prune-more", 64, 64, prune="schedule=prune-more,tau=2"),
            case("at-edm-ragged", 72, 40, prune="ratio=0.4,schedule=constant,heads=mean,norm=l2", guidance_scale=1.0),
            case("at-edm-stop-early", 64, 64, prune="epsilon=0.2,max_iterations=20", steps=3),
            case("at-edm-two-layers", 64, 64, prune="prune_layers=0+1,ratio=0.4,schedule=constant", steps=3),
        ]
    if name in parity.TRAINED:
        side = parity.TRAINED[name]
        if side > 64:
            # The reference backend also runs this. parity.py makes whole pictures of the larger model.
            return [case("guided", side, side, prompts=[parity.DRAWN[0]], steps=4, guidance_scale=4.0)]
        return [
            case("guided", side, side, prompts=list(parity.DRAWN), steps=25, guidance_scale=4.0),
            case("at-edm", side, side, prompts=[parity.DRAWN[0]], prune="", steps=3, guidance_scale=4.0),
        ]
    return [
        case("guided", 96, 96),
        case("unguided", 128, 64, guidance_scale=0.0),
        case("negative", 96, 64, negative_prompt=ODD),
        case("ragged", 104, 72),
        case("at-edm", 96, 96, prune=""),
        case("at-edm-ragged", 104, 72, prune="schedule=constant,ratio=0.5"),
        case("at-edm-cross-direct", 96, 96, prune="score=cross,recovery=direct,schedule=constant"),
        case("at-edm-zero-before-ff", 96, 96, prune="recovery=zero,prune_point=before_ff,schedule=constant"),
    ]


def write_image_to_image(pipe, folder):
    """image_to_image.safetensors and .json: a picture, and the final latents of runs that start from it."""
    generator = torch.Generator().manual_seed(31)
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 7, generator=generator), (40, 56), mode="bicubic")
    picture = (255 * smooth[0].clamp(0, 1)).round().to(torch.uint8).permute(1, 2, 0)
    out, listed = {"picture": picture}, []
    img2img = StableDiffusionXLImg2ImgPipeline(**pipe.components)
    def case(name, **more):
        return dict(dict(name=name, prompts=[CIRCLE], steps=5, strength=0.6, guidance_scale=5.0, seed=7), **more)

    cases = [case("one"), case("batch", prompts=[CAT, ODD], seed=8), case("ancestral", scheduler="euler-a", seed=9)]
    for row in cases:
        own = pipe.scheduler
        reference.use_scheduler(img2img, row.get("scheduler"))
        result = img2img(
            prompt=row["prompts"],
            image=Image.fromarray(picture.numpy()),
            strength=row["strength"],
            num_inference_steps=row["steps"],
            guidance_scale=row["guidance_scale"],
            generator=torch.Generator().manual_seed(row["seed"]),
            output_type="latent",
        )
        img2img.scheduler = own
        out[row["name"] + ".final_latents"] = result.images
        listed.append(row)
    write_tensors(os.path.join(folder, "image_to_image.safetensors"), out)
    write_json(os.path.join(folder, "image_to_image.json"), listed)
    return picture


def write_half_runs(model, picture, folder):
    """half_runs.safetensors and .json: final latents of whole runs in f16 and bf16, with noise drawn in the same dtype."""
    out, listed = {}, []
    for name, dtype in (("f16", torch.float16), ("bf16", torch.bfloat16)):
        pipe = checkpoints.load(model).to(dtype)
        img2img = StableDiffusionXLImg2ImgPipeline(**pipe.components)
        own = pipe.scheduler
        for scheduler in ("euler", "euler-a", "lcm"):
            for start in ("noise", "picture"):
                row = dict(name=f"{name}.{scheduler}.{start}", dtype=name, scheduler=scheduler, start=start, seed=5, steps=4)
                run, more = pipe, dict(width=56, height=40)
                if start == "picture":
                    run, more = img2img, dict(image=Image.fromarray(picture.numpy()), strength=0.5)
                reference.use_scheduler(run, scheduler)
                result = run(
                    prompt=[CIRCLE],
                    num_inference_steps=row["steps"],
                    guidance_scale=1.0,
                    generator=torch.Generator().manual_seed(row["seed"]),
                    output_type="latent",
                    **more,
                )
                run.scheduler = own
                out[row["name"]] = result.images
                listed.append(row)
    write_tensors(os.path.join(folder, "half_runs.safetensors"), out)
    write_json(os.path.join(folder, "half_runs.json"), listed)


def write_runs(pipe, name, folder):
    """end_to_end.safetensors and cases.json of one checkpoint."""
    out, listed = {}, []
    for index, case in enumerate(fixture_cases(name)):
        label = case["name"]
        if "prune" in case:
            seed = parity.clear_seed(pipe, case)
        else:
            seed = parity.steady_seed(pipe, case) if name in parity.TRAINED else 100 + index
        latents = reference.initial_latents(pipe, dict(case, seed=seed))
        start, final, pictures, run = reference.generate(pipe, case, latents)
        out[label + ".latents"], out[label + ".final_latents"], out[label + ".images"] = start, final, pictures
        entry = dict(case)
        if run:
            tensors, entry["prunings"] = reference.kept_tensors(run)
            out.update({f"{label}.{key}": value for key, value in tensors.items()})
            entry["early_steps"] = run.early
            margins = {kind: run.margin(kind) for kind in ("kept", "copy", "stop")}
            entry["margins"] = {k: v for k, v in margins.items() if v != float("inf")}
            print(f"{name} {label}: {len(run.records)} prunings, margins {entry['margins']}")
        listed.append(entry)
    write_tensors(os.path.join(folder, "end_to_end.safetensors"), out)
    write_json(os.path.join(folder, "cases.json"), listed)


def write_tiny_tiles(folder):
    """tiny_tiles.safetensors: the decoder of a small AutoencoderTiny, latents, and the picture that it decodes in tiles."""
    torch.manual_seed(41)
    vae = AutoencoderTiny(encoder_block_out_channels=(4,) * 4, decoder_block_out_channels=(4,) * 4).eval()
    vae.enable_tiling()
    vae.tile_sample_min_size, vae.tile_latent_min_size = 64, 8
    out = {name: value for name, value in vae.state_dict().items() if name.startswith("decoder.")}
    out["latents"] = 2 * normal(42, 1, 4, 9, 11)
    out["image"] = vae.decode(out["latents"]).sample
    write_tensors(os.path.join(folder, "tiny_tiles.safetensors"), out)


# --- samplers ------------------------------------------------------------------------------------------------------

BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)


def pseudo_output(scaled, index):
    """Replaces the U-Net: a smooth function of its input and the step."""
    return 0.8 * scaled + 0.3 * torch.sin(2.0 * scaled + float(index))


def sampler_configs():
    """(name, class, config, step counts, custom timesteps or None)."""
    rows = []
    counts = (1, 4, 20, 28, 50)
    for spacing in ("leading", "trailing", "linspace"):
        offset = dict(steps_offset=1) if spacing == "leading" else {}
        for karras in (False, True):
            end = "-karras" if karras else ""
            options = dict(timestep_spacing=spacing, use_karras_sigmas=karras, **offset)
            rows.append((f"euler-{spacing}{end}", EulerDiscreteScheduler, options, counts, None))
            rows.append((f"dpm++2m-{spacing}{end}", DPMSolverMultistepScheduler, options, counts, None))
        options = dict(timestep_spacing=spacing, **offset)
        rows.append((f"euler-a-{spacing}", EulerAncestralDiscreteScheduler, options, (1, 4, 20), None))
        options = dict(options, clip_sample=False, set_alpha_to_one=False)
        rows.append((f"ddim-{spacing}", DDIMScheduler, options, counts, None))
    leading = dict(timestep_spacing="leading", steps_offset=1)
    rows.append(("ddim-leading-alpha-to-one", DDIMScheduler, dict(leading, clip_sample=False), (4,), None))
    rows.append(("euler-leading-offset-0", EulerDiscreteScheduler, dict(timestep_spacing="leading"), (4, 20), None))
    rows.append(("lcm", LCMScheduler, leading, (1, 4, 8), None))
    rows.append(("tcd", TCDScheduler, leading, (1, 4, 8), None))
    for name, cls in (("euler", EulerDiscreteScheduler), ("dpm++2m", DPMSolverMultistepScheduler)):
        rows.append((f"{name}-v-prediction", cls, dict(leading, prediction_type="v_prediction"), (4, 20), None))
    options = dict(leading, clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction")
    rows.append(("ddim-v-prediction", DDIMScheduler, options, (4, 20), None))
    rows.append(("lcm-v-prediction", LCMScheduler, dict(leading, prediction_type="v_prediction"), (4,), None))
    rows.append(("tcd-v-prediction", TCDScheduler, dict(leading, prediction_type="v_prediction"), (4,), None))
    # sgm's EulerEDMSampler with legacy DDPM discretisation: integer timesteps, no Karras, sqrt(1 + sigma^2) at the start.
    for n in counts:
        steps = [int(t) for t in numpy.linspace(999, 0, n, endpoint=False)]
        rows.append(("euler-sgm", EulerDiscreteScheduler, dict(timestep_spacing="leading"), (n,), steps))
    return rows


def edm_configs():
    """Rows like those of sampler_configs, for models with EDM's preconditioning. The first is Playground v2.5's."""
    counts = (1, 4, 20)
    return [
        ("edm-dpm++2m", EDMDPMSolverMultistepScheduler, dict(sigma_data=0.5), (1, 4, 20, 50), None),
        ("edm-dpm++2m-other", EDMDPMSolverMultistepScheduler, dict(
            sigma_data=1.3, sigma_min=0.01, sigma_max=20.0, rho=5.0, prediction_type="v_prediction",
            final_sigmas_type="sigma_min", euler_at_final=True), counts, None),
        ("edm-dpm++2m-exponential", EDMDPMSolverMultistepScheduler, dict(sigma_schedule="exponential"), counts, None),
        ("edm-euler", EDMEulerScheduler, {}, counts, None),
        ("edm-euler-other", EDMEulerScheduler, dict(
            sigma_data=1.0, sigma_max=30.0, sigma_schedule="exponential", prediction_type="v_prediction",
            final_sigmas_type="sigma_min"), counts, None),
    ]


def solver_configs():
    """Rows like those of sampler_configs: solvers with two predictions and all spacings, schedules of noise levels, and noise
    levels rescaled to zero terminal SNR."""
    leading = dict(timestep_spacing="leading", steps_offset=1)
    spacings = {"leading": leading, "trailing": dict(timestep_spacing="trailing"), "linspace": {}}
    sde = dict(algorithm_type="sde-dpmsolver++")
    unclipped = dict(clip_sample=False)
    solvers = [
        ("heun", HeunDiscreteScheduler, {}),
        ("lms", LMSDiscreteScheduler, {}),
        ("unipc", UniPCMultistepScheduler, {}),
        ("dpm++2m-sde", DPMSolverMultistepScheduler, sde),
        ("ddpm", DDPMScheduler, unclipped),
    ]
    # Their timesteps always lie as in linspace.
    singlestep = [
        ("dpm++2s", DPMSolverSinglestepScheduler, {}),
        ("dpm++sde", DPMSolverSinglestepScheduler, sde),
    ]
    rows = []
    for prediction in ("epsilon", "v_prediction"):
        predicts = dict(prediction_type=prediction)
        for name, cls, options in solvers:
            for spacing, spaced in spacings.items():
                config = dict(options, timestep_spacing=spacing)
                config.update(spaced, **predicts)
                rows.append((f"{name}-{spacing}-{prediction}", cls, config, (10, 25), None))
        for name, cls, options in singlestep:
            rows.append((f"{name}-{prediction}", cls, dict(options, **predicts), (10, 25), None))
    levelled = [
        ("euler", EulerDiscreteScheduler, leading),
        ("dpm++2m", DPMSolverMultistepScheduler, leading),
        *((name, cls, dict(options, **leading)) for name, cls, options in solvers[:4]),
        *singlestep,
    ]
    for levels in ("karras", "exponential", "beta"):
        for name, cls, options in levelled:
            if levels == "karras" and name in ("euler", "dpm++2m"):
                continue
            config = dict(options, **{f"use_{levels}_sigmas": True})
            rows.append((f"{name}-{levels}", cls, config, (10, 25), None))
    # What else the configurations can ask for.
    sigma_min = dict(leading, final_sigmas_type="sigma_min")
    rows += [
        ("unipc-3", UniPCMultistepScheduler, dict(leading, solver_order=3), (10, 25), None),
        ("unipc-3-bh1", UniPCMultistepScheduler, dict(sigma_min, solver_order=3, solver_type="bh1"), (10, 25), None),
        ("unipc-1", UniPCMultistepScheduler, dict(leading, solver_order=1), (10,), None),
        ("unipc-sigma-min", UniPCMultistepScheduler, dict(sigma_min, lower_order_final=False), (10,), None),
        ("unipc-beta-sigma-min", UniPCMultistepScheduler, dict(sigma_min, use_beta_sigmas=True), (10,), None),
        ("heun-clipped", HeunDiscreteScheduler, dict(leading, clip_sample=True, clip_sample_range=2.0), (10,), None),
        ("ddpm-large", DDPMScheduler, dict(leading, **unclipped, variance_type="fixed_large"), (10,), None),
        ("ddpm-clipped", DDPMScheduler, leading, (10,), None),
        ("dpm++2s-sigma-min", DPMSolverSinglestepScheduler, dict(final_sigmas_type="sigma_min"), (10, 25), None),
        ("dpm++sde-1", DPMSolverSinglestepScheduler, dict(sde, solver_order=1), (10,), None),
    ]
    # Of the classes that know the field.
    rescaled = [
        ("euler", EulerDiscreteScheduler, {}),
        ("euler-a", EulerAncestralDiscreteScheduler, {}),
        ("dpm++2m", DPMSolverMultistepScheduler, {}),
        ("dpm++2m-sde", DPMSolverMultistepScheduler, sde),
        ("unipc", UniPCMultistepScheduler, {}),
        ("ddim", DDIMScheduler, dict(unclipped, set_alpha_to_one=False)),
        ("ddpm", DDPMScheduler, unclipped),
    ]
    zero = dict(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    for name, cls, options in rescaled:
        for spacing, spaced in spacings.items():
            config = dict(options, timestep_spacing=spacing)
            config.update(spaced, **zero)
            rows.append((f"{name}-{spacing}-zero-snr", cls, config, (10, 25), None))
    rows.append(("lcm-zero-snr", LCMScheduler, zero, (4,), None))
    rows.append(("tcd-zero-snr", TCDScheduler, zero, (4,), None))
    rows.append(("euler-zero-snr-karras", EulerDiscreteScheduler, dict(zero, use_karras_sigmas=True), (10,), None))
    return rows


def run_sampler(scheduler, steps, custom, noises):
    """Timesteps, sigmas, start factor and the trajectory from fixed noise."""
    if custom:
        scheduler.set_timesteps(timesteps=custom)
    else:
        scheduler.set_timesteps(steps)
    factor = float(scheduler.init_noise_sigma)
    x = normal(21, 1, 4, 4, 4) * factor
    trajectory = [x]
    generator = torch.Generator().manual_seed(22)
    draws = "generator" in inspect.signature(scheduler.step).parameters
    extra = dict(generator=generator) if draws else {}
    for i, t in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(x, t)
        x = scheduler.step(pseudo_output(scaled, i), t, x, return_dict=False, **extra)[0]
        trajectory.append(x)
    return factor, torch.stack(trajectory), noises


def write_samplers(folder, file, rows, training, thin=False):
    """FILE.safetensors and FILE.json. `training` is what all configurations have about the noise of training. Thin files hold
    no trajectories, and no noise: seed 22 draws it."""
    out, listed = {"noise": normal(21, 1, 4, 4, 4)}, []
    for name, cls, options, counts, custom in rows:
        for steps in counts:
            noises = []
            module = sys.modules[cls.__module__]
            draw = getattr(module, "randn_tensor", None)

            def recorded(*args, draw=draw, noises=noises, **kwargs):
                noises.append(draw(*args, **kwargs))
                return noises[-1]

            scheduler = cls(**training, **options)
            if draw:
                module.randn_tensor = recorded
            factor, trajectory, noises = run_sampler(scheduler, steps, custom, noises)
            if draw:
                module.randn_tensor = draw
            key = f"{name}.{steps}"
            out[key + ".timesteps"] = scheduler.timesteps.float()
            has_sigmas = hasattr(scheduler, "sigmas")
            if has_sigmas:
                out[key + ".sigmas"] = scheduler.sigmas
            out[key + ".final"] = trajectory[-1]
            whole = not thin and len(trajectory) <= 21
            if whole:
                out[key + ".trajectory"] = trajectory
            if noises and not thin:
                out[key + ".noise"] = torch.stack(noises)
            listed.append(
                dict(
                    name=key,
                    sampler=name,
                    steps=steps,
                    scheduler_config=dict(_class_name=cls.__name__, **training, **options),
                    custom_timesteps=custom,
                    init_noise_sigma=factor,
                    has_sigmas=has_sigmas,
                    has_trajectory=whole,
                    noises=len(noises),
                )
            )
    write_tensors(os.path.join(folder, file + ".safetensors"), out)
    write_json(os.path.join(folder, file + ".json"), listed)


# --- randn and tokens ----------------------------------------------------------------------------------------------


def write_randn(folder):
    """torch_randn.safetensors."""
    out = {}
    for seed in (0, 1, 42, 2**31 + 7, 2**32 + 1, 2**63 - 1):
        for n in (1, 5, 15, 16, 17, 31, 32, 100):
            out[f"seed.{seed}.draw.{n}"] = normal(seed, n)
    for seed in (0, 42):
        out[f"seed.{seed}.draw.1x4x32x32"] = normal(seed, 1, 4, 32, 32)
        out[f"seed.{seed}.draw.2x4x16x24"] = normal(seed, 2, 4, 16, 24)
        for first, second in ((1, 1), (5, 5), (5, 16), (15, 15), (16, 5), (16, 16), (17, 31), (5, 100)):
            generator = torch.Generator().manual_seed(seed)
            for which, n in (("first", first), ("second", second)):
                out[f"seed.{seed}.two_draws.{first}.{second}.{which}"] = torch.randn(n, generator=generator)
    write_tensors(os.path.join(folder, "torch_randn.safetensors"), out)


def write_randn_dtypes(folder):
    """torch_randn_dtypes.safetensors: draws in other precisions than f32, written as f32."""
    out = {}
    for name, dtype in (("f16", torch.float16), ("bf16", torch.bfloat16), ("f64", torch.float64)):
        for seed in (0, 42, 2**32 + 1):
            for n in (1, 5, 15, 16, 17, 31, 100):
                generator = torch.Generator().manual_seed(seed)
                out[f"{name}.seed.{seed}.draw.{n}"] = torch.randn(n, generator=generator, dtype=dtype)
        for first, second in ((5, 5), (5, 16), (16, 5), (17, 31)):
            generator = torch.Generator().manual_seed(7)
            for which, n in (("first", first), ("second", second)):
                draw = torch.randn(n, generator=generator, dtype=dtype)
                out[f"{name}.seed.7.two_draws.{first}.{second}.{which}"] = draw
        generator = torch.Generator().manual_seed(1)
        out[f"{name}.seed.1.draw.1x4x32x32"] = torch.randn(1, 4, 32, 32, generator=generator, dtype=dtype)
    # An autoencoder in f32 beside a pipeline in f16: its draw comes first, from the same generator.
    generator = torch.Generator().manual_seed(3)
    out["mixed.f32"] = torch.randn(20, generator=generator)
    out["mixed.f16"] = torch.randn(20, generator=generator, dtype=torch.float16)
    write_tensors(os.path.join(folder, "torch_randn_dtypes.safetensors"), out)


def write_tokens(pipe, folder):
    """tokens.json: what each text becomes."""
    rows = []
    for text in TEXTS:
        row = dict(text=text, ids=pipe.tokenizer(text).input_ids)
        for name in ("tokenizer", "tokenizer_2"):
            tokenizer = getattr(pipe, name)
            row[name + ".24"] = tokenizer(text, padding="max_length", max_length=24, truncation=True).input_ids
        rows.append(row)
    write_json(os.path.join(folder, "tokens.json"), rows)


def main(arguments):
    folder = arguments[0] if arguments else os.path.join(parity.ROOT, "tests", "fixtures")
    os.makedirs(folder, exist_ok=True)
    write_randn(folder)
    write_randn_dtypes(folder)
    with torch.no_grad():
        write_samplers(folder, "samplers", sampler_configs(), BETAS)
        write_samplers(folder, "solvers", solver_configs(), BETAS, thin=True)
        write_tiny_tiles(folder)
        write_samplers(folder, "samplers_edm", edm_configs(), dict(num_train_timesteps=1000))
        for name in ("tiny-a", "tiny-b", *parity.TRAINED):
            model, expected = os.path.join(folder, name), os.path.join(folder, name + "-expected")
            shutil.rmtree(expected, ignore_errors=True)
            os.makedirs(expected)
            if name in parity.TRAINED:
                write_runs(checkpoints.load(parity.trained(name)), name, expected)
                continue
            checkpoints.write_checkpoint(model, checkpoints.CONFIGS[name])
            pipe = checkpoints.load(model)
            write_modules(pipe, expected)
            write_runs(pipe, name, expected)
            if name == "tiny-a":
                write_tokens(pipe, folder)
                write_half_runs(model, write_image_to_image(pipe, expected), expected)
    versions = dict(torch=torch.__version__, diffusers=diffusers.__version__, transformers=transformers.__version__)
    write_json(os.path.join(folder, "versions.json"), versions)


if __name__ == "__main__":
    main(sys.argv[1:])
