"""Final latents of runs that use earlier steps' work again: DeepCache, T-GATE, a first-block cache, a forecast of evaluations.

    pip install --no-deps --target DIR DeepCache==0.1.1 tgate==1.0.0
    PYTHONPATH=DIR python reuse_reference.py [OUT]        tests/fixtures/reuse by default

What runs is the authors' code where there is some: `DeepCacheSDHelper` and `tgate` of these packages, and diffusers'
hooks for TaylorSeer and for the first-block cache of transformers. Two things are made here: DeepCache's uneven steps,
which its helper lacks (the list of steps is that of the authors' function, the rest is their helper), and the
first-block cache of a U-Net, for which diffusers has no hook (`FirstBlockCache` below, around diffusers' own modules).

OUT gets reuse.json, reuse.safetensors and deepcache_schedules.json; tests/fixtures/README.md says what they hold.
"""

import ast
import contextlib
import json
import os
import sys
import warnings

import checkpoints
import numpy
import parity
import reference
import torch
from DeepCache import DeepCacheSDHelper
from diffusers.hooks import TaylorSeerCacheConfig, apply_taylorseer_cache
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.hooks.first_block_cache import FirstBlockCacheConfig, apply_first_block_cache
from diffusers.hooks.hooks import CacheContext, _set_cache_context
from make_fixtures import normal, write_json, write_tensors
from tgate import TgateSDXLLoader

MARGIN = 1e-3


def authors_uneven_steps():
    """DeepCache's `sample_from_quad_center`, out of its pipeline's file, whose imports diffusers no longer has."""
    import DeepCache

    path = os.path.join(os.path.dirname(DeepCache.__file__), "sdxl", "pipeline_stable_diffusion_xl.py")
    with open(path, encoding="utf-8") as f:
        tree = ast.parse(f.read())
    body = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "sample_from_quad_center"]
    names = {"np": numpy}
    exec(compile(ast.Module(body=body, type_ignores=[]), path, "exec"), names)
    return names["sample_from_quad_center"]


def uneven_steps(steps, interval, center, pow):
    """The steps that compute everything, or None where the authors' function finds none; as their pipeline calls it."""
    slow = steps // interval + (steps % interval != 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            indices, _ = authors_uneven_steps()(steps, slow, center=center, pow=pow)
        except (ValueError, OverflowError):
            return None
    return sorted(int(i) for i in indices)


# --- DeepCache -----------------------------------------------------------------------------------------------------


class UnevenHelper(DeepCacheSDHelper):
    """The authors' helper with a list of the steps that compute everything."""

    def is_skip_step(self, block_i, layer_i, blocktype="down"):
        if self.cur_timestep in self.full_steps:
            return False
        self.params["skip_mode"] = "listed"
        return super().is_skip_step(block_i, layer_i, blocktype)


@contextlib.contextmanager
def deepcache(pipe, case):
    """The authors' helper. Their branch number counts three outputs a stage, which SD-XL has; a model with another
    number of them gets the stage and the output within it that the same count leads to."""
    options = case["options"]
    uneven = not options.get("uniform", True)
    helper = (UnevenHelper if uneven else DeepCacheSDHelper)(pipe=pipe)
    helper.set_params(cache_interval=options["cache_interval"], cache_branch_id=options["cache_branch_id"])
    outputs = pipe.unet.config.layers_per_block + 1
    if outputs != 3:
        stage, output = divmod(options["cache_branch_id"], outputs)
        helper.params.update(cache_block_id=stage, cache_layer_id=output)
    if uneven:
        args = [options[key] for key in ("cache_interval", "center", "pow")]
        helper.full_steps = uneven_steps(case["steps"], *args)
    helper.enable()
    yield
    helper.disable()


# --- a first-block cache of a U-Net --------------------------------------------------------------------------------


class FirstBlockCache:
    """A U-Net as the recursion that its skip connections make it, with a first-block cache.

    The first block is what lies between the first two skip connections. If what it adds has moved by no more than the
    threshold since it was last kept (diffusers' measure, `_should_compute_remaining_blocks`), everything between the
    second skip connection and its use is taken from memory: what it added, or its output where the channels differ.
    One image: with guidance both halves decide together.
    """

    def __init__(self, unet, threshold):
        self.unet, self.threshold = unet, threshold
        self.head = self.tail = None
        self.differences, self.computed = [], []
        self.down, self.up = [], []
        for stage in unet.down_blocks:
            for i, resnet in enumerate(stage.resnets):
                self.down.append((resnet, self.attention(stage, i)))
            self.down += [(sampler, None) for sampler in stage.downsamplers or []]
        for stage in unet.up_blocks:
            for i, resnet in enumerate(stage.resnets):
                last = i + 1 == len(stage.resnets)
                sampler = stage.upsamplers[0] if last and stage.upsamplers else None
                self.up.append((resnet, self.attention(stage, i), sampler))

    @staticmethod
    def attention(stage, i):
        return stage.attentions[i] if getattr(stage, "attentions", None) else None

    def block(self, resnet, attention, x):
        x = resnet(x, self.emb)
        return attention(x, encoder_hidden_states=self.text).sample if attention is not None else x

    def within(self, depth, x, skips):
        """Between the skip connection `depth` (it is `x`) and its use."""
        if depth == 1:
            added = x - skips[0]
            kept = self.head
            difference = None if kept is None else ((added - kept).abs().mean() / kept.abs().mean()).item()
            self.differences.append(difference)
            if difference is not None and difference <= self.threshold:
                self.computed.append(False)
                return x + self.tail if self.tail.shape == x.shape else self.tail
            self.computed.append(True)
            self.head = added
        if depth == len(self.down):
            inner = self.unet.mid_block(x, self.emb, encoder_hidden_states=self.text)
        else:
            resnet, attention = self.down[depth]
            y = self.block(resnet, attention, x) if hasattr(resnet, "time_emb_proj") else resnet(x)
            inner = self.use(depth + 1, y, self.within(depth + 1, y, [*skips, x]), [*skips, x])
        if depth == 1:
            self.tail = inner - x if inner.shape == x.shape else inner
        return inner

    def use(self, depth, skip, inner, skips):
        """What uses the skip connection `depth`."""
        resnet, attention, sampler = self.up[len(self.down) - depth]
        x = self.block(resnet, attention, torch.cat([inner, skip], dim=1))
        return x if sampler is None else sampler(x, output_size=skips[-1].shape[2:])

    def forward(self, sample, timestep, encoder_hidden_states, added_cond_kwargs, **_):
        unet, self.text = self.unet, encoder_hidden_states
        emb = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=timestep))
        self.emb = emb + unet.get_aug_embed(
            emb=emb, encoder_hidden_states=encoder_hidden_states, added_cond_kwargs=added_cond_kwargs
        )
        x = unet.conv_in(sample)
        x = self.use(0, x, self.within(0, x, []), [])
        return (unet.conv_out(unet.conv_act(unet.conv_norm_out(x))),)


@contextlib.contextmanager
def first_block_cache(pipe, case):
    cache = FirstBlockCache(pipe.unet, case["options"]["threshold"])
    own, pipe.unet.forward = pipe.unet.forward, cache.forward
    yield
    pipe.unet.forward = own
    for difference in cache.differences[1:]:
        clear = abs(difference / cache.threshold - 1)
        assert clear > MARGIN, f"{case['name']}: a difference of {difference} is too close to the threshold"
    case.setdefault("computed", []).append([i for i, yes in enumerate(cache.computed) if yes])
    print(case["name"], [d and round(d, 4) for d in cache.differences])


# --- forecasts -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def step_forecast(pipe, case):
    """diffusers' TaylorSeer on the last convolution alone: its output is the whole evaluation's."""
    config = TaylorSeerCacheConfig(
        cache_identifiers=["conv_out"], taylor_factors_dtype=torch.float32, **case["options"]
    )
    apply_taylorseer_cache(pipe.unet, config)
    _set_cache_context(pipe.unet, CacheContext(name="cond"))
    yield
    pipe.unet.conv_out._diffusers_hook.remove_hook("taylorseer_cache")


# --- the cases -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def nothing(pipe, case):
    yield


METHODS = {
    "none": nothing,
    "deepcache": deepcache,
    "tgate": nothing,
    "first-block-cache": first_block_cache,
    "step-forecast": step_forecast,
}
TWO = [parity.CAT, parity.ODD]


def cases():
    def case(method, model, number, options, **more):
        row = dict(prompts=[parity.CIRCLE], steps=8, guidance_scale=5.0, width=64, height=64)
        name = f"{method}.{model}.{number}"
        return dict(name=name, method=method, model=model, options=options, **{**row, **more})

    def cache(interval, branch, **more):
        return dict(cache_interval=interval, cache_branch_id=branch, **more)

    return [
        case("deepcache", "tiny-a", 0, cache(3, 0)),
        case("deepcache", "tiny-a", 1, cache(2, 1), scheduler="dpm++2m"),
        case("deepcache", "tiny-a", 2, cache(5, 2), guidance_scale=1.0, steps=11),
        case("deepcache", "tiny-a", 3, cache(3, 3), width=72, height=40),
        case("deepcache", "tiny-a", 4, cache(3, 4), prompts=TWO, negative_prompt=parity.BLURRY),
        case("deepcache", "tiny-a", 5, cache(4, 5), scheduler="ddim", steps=10),
        *[case("deepcache", "tiny-b", branch, cache(3, branch), width=96, height=72) for branch in range(6)],
        case("deepcache", "tiny-b", 6, cache(5, 0, uniform=False, center=8, pow=1.4), steps=20, width=96, height=72),
        case("deepcache", "tiny-b", 7, cache(3, 2, uniform=False, center=3, pow=1.2), steps=12, width=96, height=72),
        case("tgate", "tiny-a", 0, dict(gate_step=4)),
        case("tgate", "tiny-a", 1, dict(gate_step=10), steps=25),
        case("tgate", "tiny-a", 2, dict(gate_step=5, sp_interval=2, warm_up=1), scheduler="dpm++2m"),
        case("tgate", "tiny-a", 3, dict(gate_step=3, fi_interval=2), width=72, height=40),
        case("tgate", "tiny-a", 4, dict(gate_step=4, fi_interval=3), prompts=TWO, negative_prompt=parity.BLURRY),
        case("tgate", "tiny-a", 5, dict(gate_step=9, sp_interval=3)),
        case("tgate", "tiny-a", 6, dict(gate_step=4, sp_interval=2), guidance_scale=1.0),
        case("tgate", "tiny-b", 0, dict(gate_step=1), width=96, height=72),
        case("tgate", "tiny-b", 1, dict(gate_step=5, fi_interval=2), scheduler="ddim", width=96, height=72),
        case("first-block-cache", "tiny-a", 0, dict(threshold=0.2), steps=16),
        case("first-block-cache", "tiny-a", 1, dict(threshold=0.3), prompts=TWO, steps=12),
        case("first-block-cache", "tiny-b", 0, dict(threshold=0.05), steps=16, width=96, height=72),
        case("first-block-cache", "tiny-b", 1, dict(threshold=0.12), steps=12, guidance_scale=1.0, width=96, height=72),
        case("first-block-cache", "tiny-b", 2, dict(threshold=0.3), scheduler="dpm++2m", width=96, height=72),
        case("step-forecast", "tiny-a", 0, dict(), steps=20),
        case("step-forecast", "tiny-a", 1, dict(cache_interval=3, max_order=2), steps=14, scheduler="ddim"),
        case("step-forecast", "tiny-a", 2, dict(cache_interval=2, disable_cache_before_step=1, max_order=2)),
        case("step-forecast", "tiny-a", 3, dict(cache_interval=4, disable_cache_after_step=9), steps=12, prompts=TWO),
        case("step-forecast", "tiny-b", 0, dict(cache_interval=3), guidance_scale=1.0, width=96, height=72),
    ]


def run(pipe, case, latents):
    """The final latents of a case that starts from standard normal `latents`."""
    own = pipe.scheduler
    reference.use_scheduler(pipe, case.get("scheduler"))
    negative = case.get("negative_prompt")
    call, more = pipe, {}
    if case["method"] == "tgate":
        for module in pipe.unet.modules():
            module.__dict__.pop("cache", None)
        # without guidance there are no halves to average: the authors' switch for that is called `lcm`
        call, more = TgateSDXLLoader(pipe).tgate, dict(case["options"], lcm=case["guidance_scale"] <= 1)
    with METHODS[case["method"]](pipe, case):
        final = call(
            prompt=case["prompts"],
            negative_prompt=None if negative is None else [negative] * len(case["prompts"]),
            num_inference_steps=case["steps"],
            guidance_scale=case["guidance_scale"],
            width=case["width"],
            height=case["height"],
            latents=latents.clone(),
            output_type="latent",
            **more,
        ).images
    pipe.scheduler = own
    if case["method"] == "tgate":
        for module in pipe.unet.modules():
            module.__dict__.pop("forward", None)
    return final


def final_latents(pipe, case, latents):
    if case["method"] != "first-block-cache":
        return run(pipe, case, latents)
    # an image decides for itself: one by one
    one = [dict(case, prompts=[prompt], computed=[]) for prompt in case["prompts"]]
    finals = [run(pipe, row, latents[i : i + 1]) for i, row in enumerate(one)]
    case["computed"] = [row["computed"][0] for row in one]
    return torch.cat(finals)


# --- a transformer -------------------------------------------------------------------------------------------------


class ToyBlock(torch.nn.Module):
    """`x + tanh(x W + t)`."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, hidden_states, time):
        return hidden_states + torch.tanh(hidden_states @ self.weight + time)


class ToyTransformer(torch.nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.blocks = torch.nn.ModuleList([ToyBlock(weight) for weight in weights])

    def forward(self, x, time):
        for block in self.blocks:
            x = block(x, time)
        return x


def toy_transformer(out):
    """diffusers' first-block cache on a transformer of four blocks, and steps x ← x − 0.04 (f(x, i / 10))."""
    TransformerBlockRegistry.register(ToyBlock, TransformerBlockMetadata(return_hidden_states_index=0))
    weights = [0.6 * normal(50 + i, 6, 6) for i in range(4)]
    x = normal(60, 1, 5, 6)
    out["toy.weights"], out["toy.start"] = torch.stack(weights), x
    listed = []
    for threshold in (0.05, 0.1, 0.2):
        model = ToyTransformer(weights)
        apply_first_block_cache(model, FirstBlockCacheConfig(threshold=threshold))
        _set_cache_context(model, CacheContext(name="cond"))
        ran, calls, y = [], [], x
        last = model.blocks[3]
        inner = last._diffusers_hook._fn_refs[-1].original_forward

        def counted(*args, inner=inner, calls=calls, **kwargs):
            calls.append(1)
            return inner(*args, **kwargs)

        last._diffusers_hook._fn_refs[-1].original_forward = counted
        for i in range(20):
            before = len(calls)
            y = y - 0.04 * model(y, torch.tensor(i / 10))
            if len(calls) > before:
                ran.append(i)
        name = f"toy.{threshold}"
        out[name + ".final"] = y
        listed.append(dict(name=name, threshold=threshold, steps=20, computed=ran))
        print(name, ran)
    return listed


# --- writing -------------------------------------------------------------------------------------------------------


def schedules():
    """What the authors' function gives for many settings."""
    rows = []
    for steps in (10, 25, 50, 100):
        for interval in (2, 3, 5, 10):
            for center in (0, 1, 3, 8, 15, 40):
                for pow in (1.1, 1.2, 1.4, 2.0):
                    if center < steps:
                        found = uneven_steps(steps, interval, center, pow)
                        rows.append(dict(steps=steps, cache_interval=interval, center=center, pow=pow, full=found))
    return rows


def main(arguments):
    folder = arguments[0] if arguments else os.path.join(parity.ROOT, "tests", "fixtures", "reuse")
    os.makedirs(folder, exist_ok=True)
    write_json(os.path.join(folder, "deepcache_schedules.json"), schedules())
    fixtures, out, listed, pipes = os.path.join(parity.ROOT, "tests", "fixtures"), {}, [], {}
    with torch.no_grad():
        toy = toy_transformer(out)
        for case in cases():
            model = case["model"]
            pipe = pipes.setdefault(model, checkpoints.load(os.path.join(fixtures, model)))
            latents = reference.initial_latents(pipe, dict(case, seed=200 + len(case["prompts"])))
            start = "noise." + "x".join(map(str, latents.shape))
            out[start], case["start"] = latents, start
            final = final_latents(pipe, case, latents)
            whole = run(pipe, dict(case, method="none"), latents)
            effect = reference.relative_l2(final, whole)
            print(f"{case['name']}: {effect:.3g} from the whole run")
            assert effect > 1e-4, "nothing happened"
            out[case["name"] + ".final_latents"] = final
            listed.append(case)
    write_tensors(os.path.join(folder, "reuse.safetensors"), out)
    write_json(os.path.join(folder, "reuse.json"), dict(runs=listed, toy=toy))


if __name__ == "__main__":
    main(sys.argv[1:])
