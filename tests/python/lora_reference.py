"""Writes tests/fixtures/lora: LoRA files of every format for tiny-a, and what diffusers and PEFT make of them.

    python lora_reference.py ../fixtures

Each format's merged weights are computed here by one einsum from the stored factors. They must agree with the deltas of the
adapters that diffusers or PEFT load, as far as they load the format. Final latents come from runs with these adapters beside the
weights, not merged into them. In three files the einsum alone decides: LyCORIS' Tucker kernels of plain LoRA and f8 values are read by
neither, and diffusers loses the alphas of kohya's attention layers where alphas differ from layer to layer.

`f8_values.safetensors` holds every f8 value, and torch's f32 for it.
"""

import json
import pathlib
import sys

import checkpoints
import peft
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from reference import generate
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from single_file import original_unet, unet_modules

PARTS = ["unet", "text_encoder", "text_encoder_2"]
KOHYA = dict(unet="lora_unet", text_encoder="lora_te1", text_encoder_2="lora_te2")
LAYER = "transformer_blocks.0"
ATTENTION = [
    f"down_blocks.1.attentions.0.{LAYER}.attn1.to_q",
    f"down_blocks.1.attentions.0.{LAYER}.attn1.to_out.0",
    f"down_blocks.2.attentions.0.{LAYER}.attn2.to_k",
    f"mid_block.attentions.0.{LAYER}.attn1.to_v",
    f"up_blocks.0.attentions.1.{LAYER}.attn2.to_q",
]
LINEAR = ATTENTION + [
    "down_blocks.1.attentions.0.proj_in",
    f"down_blocks.1.attentions.0.{LAYER}.ff.net.0.proj",
    f"up_blocks.1.attentions.0.{LAYER}.ff.net.2",
    "up_blocks.1.attentions.1.proj_out",
]
CONVOLUTIONS = [
    "down_blocks.0.resnets.0.conv1",
    "down_blocks.0.downsamplers.0.conv",
    "down_blocks.1.resnets.0.conv_shortcut",
    "mid_block.resnets.1.conv2",
    "up_blocks.0.upsamplers.0.conv",
]
OUTSIDE = [
    "conv_in",
    "conv_out",
    "time_embedding.linear_1",
    "add_embedding.linear_2",
    "down_blocks.1.resnets.0.time_emb_proj",
]
TEXT = [
    "text_model.encoder.layers.0.self_attn.q_proj",
    "text_model.encoder.layers.1.self_attn.out_proj",
    "text_model.encoder.layers.0.mlp.fc1",
    "text_model.encoder.layers.1.mlp.fc2",
]
# merged weights of these modules are kept
KEPT = [LINEAR[0], LINEAR[2], LINEAR[5], "down_blocks.0.resnets.0.conv1", "down_blocks.0.downsamplers.0.conv", "conv_in", *TEXT[:2]]

CASE = dict(prompts=["a photo of a red circle on a blue background"], steps=3, guidance_scale=5.0, width=64, height=48, seed=3)
PRUNED = dict(CASE, prune="ratio=0.5,tau=0")


class Layer:
    """One module of a LoRA file: its factors in f64, its scale alpha / rank, and how they make the change."""

    def __init__(self, part, module, scale, make):
        self.part, self.module, self.scale, self.make = part, module, scale, make

    def delta(self, shape):
        return self.scale * self.make().reshape(shape)


def tucker(core, left, right):
    """LyCORIS' rebuild of LoHa and LoKr: the left factor is stored turned."""
    return torch.einsum("p q k l, p o, q i -> o i k l", core, left, right).contiguous()


def module_of(pipe, part, name):
    model = getattr(pipe, part)
    if part != "unet" and not hasattr(model, "text_model"):
        name = name.removeprefix("text_model.")
    return model.get_submodule(name)


class Draws:
    def __init__(self, seed, dtype):
        self.generator, self.dtype = torch.Generator().manual_seed(seed), dtype

    def __call__(self, *shape, size=1.0):
        return (size * torch.randn(shape, generator=self.generator)).to(self.dtype)

    def pair(self, weight, rank):
        """down and up of a LoRA; a kernel belongs to down."""
        outputs, inputs, *kernel = weight.shape
        fan = weight[0].numel()
        down = self(rank, inputs, *kernel, size=fan**-0.5)
        return down, self(outputs, rank, *[1 for _ in kernel], size=0.5 * rank**-0.5)


def product(up, down):
    return lambda: up.double().flatten(1) @ down.double().flatten(1)


def plain(pipe, draws, spelling, alpha, modules, text=TEXT, rank=lambda index: 2 + 2 * (index % 2)):
    """Tensors and layers of a LoRA. `spelling` names the tensors of a module."""
    tensors, layers = {}, []
    entries = [("unet", m) for m in modules] + [(p, m) for p in PARTS[1:] for m in text]
    for index, (part, module) in enumerate(entries):
        r = rank(index)
        down, up = draws.pair(module_of(pipe, part, module).weight, r)
        names = spelling(part, module)
        tensors[names["down"]], tensors[names["up"]] = down, up
        scale = 1.0
        if alpha:
            value = alpha(index)
            tensors[names["alpha"]] = torch.tensor(value)
            scale = value / r
        layers.append(Layer(part, module, scale, product(up, down)))
    return tensors, layers


def kohya(part, module, original=None):
    if part == "unet" and original:
        module = original_unet(module + ".weight", original).removeprefix("model.diffusion_model.").removesuffix(".weight")
    name = f"{KOHYA[part]}_{module.replace('.', '_')}"
    return dict(down=f"{name}.lora_down.weight", up=f"{name}.lora_up.weight", mid=f"{name}.lora_mid.weight", alpha=f"{name}.alpha", name=name)


def peft_names(part, module):
    return dict(down=f"{part}.{module}.lora_A.weight", up=f"{part}.{module}.lora_B.weight")


def old_names(part, module):
    """diffusers before PEFT: attention processors, and linear layers of the text encoders."""
    if part == "unet" and ".attn" in module:
        head, _, which = module.rpartition(".to_")
        which = which.removesuffix(".0")
        return {k: f"{part}.{head}.processor.to_{which}_lora.{k}.weight" for k in ("down", "up")}
    if "self_attn" in module:
        head, _, which = module.rpartition(".")
        which = {"q_proj": "to_q", "out_proj": "to_out"}[which]
        return {k: f"{part}.{head}.{which}_lora.{k}.weight" for k in ("down", "up")}
    leaf = "lora_linear_layer" if part != "unet" else "lora"
    return {k: f"{part}.{module}.{leaf}.{k}.weight" for k in ("down", "up")}


def peft_settings(pipe, draws):
    """A file that diffusers writes with PEFT's settings in its header: alpha that is not the rank, and other alphas by name."""
    from diffusers import StableDiffusionXLPipeline

    layers, options = [], {}
    for part, modules in (("unet", ATTENTION), ("text_encoder_2", TEXT)):
        model = getattr(pipe, part)
        modules = [m if part == "unet" or hasattr(model, "text_model") else m.removeprefix("text_model.") for m in modules]
        special = modules[1]
        config = LoraConfig(
            r=4,
            lora_alpha=6,
            target_modules=modules,
            rank_pattern={special: 2},
            alpha_pattern={special: 8},
            use_rslora=part != "unet",
        )
        inject_adapter_in_model(config, model, adapter_name="made")
        for module in modules:
            layer = model.get_submodule(module)
            down, up = draws.pair(layer.base_layer.weight, 2 if module == special else 4)
            layer.lora_A["made"].weight.data, layer.lora_B["made"].weight.data = down, up
            rank = down.shape[0]
            alpha = 8 if module == special else 6
            scale = alpha / (rank**0.5 if part != "unet" else rank)
            name = module if part == "unet" or module.startswith("text_model.") else f"text_model.{module}"
            layers.append(Layer(part, name, scale, product(up, down)))
        settings = config.to_dict()
        settings["target_modules"] = sorted(modules)
        options[part] = (get_peft_model_state_dict(model, adapter_name="made"), settings)
    return lambda folder: StableDiffusionXLPipeline.save_lora_weights(
        folder,
        unet_lora_layers=options["unet"][0],
        text_encoder_2_lora_layers=options["text_encoder_2"][0],
        unet_lora_adapter_metadata=options["unet"][1],
        text_encoder_2_lora_adapter_metadata=options["text_encoder_2"][1],
        weight_name="settings.safetensors",
    ), layers


def inject(config, pipe, modules):
    """Adds an adapter. LyCORIS gives layers without products the scale 1, whatever their alpha; PEFT does not."""
    inject_adapter_in_model(config, pipe.unet, adapter_name="made")
    for module in modules:
        layer = pipe.unet.get_submodule(module)
        if not any(name.endswith("_a.made") for name, _ in layer.named_parameters()):
            layer.scaling["made"] = 1.0


def lycoris(pipe, draws, config, modules, make):
    """PEFT makes the adapter with random values. The file has LyCORIS' names."""
    inject(config, pipe, modules)
    tensors, layers = {}, []
    for module in modules:
        layer = pipe.unet.get_submodule(module)
        factors = {}
        for name, values in layer.named_parameters():
            if not name.endswith(".made"):
                continue
            name = name.removesuffix(".made")
            values.data = draws(*values.shape, size=0.6 if "w1" in name else 0.5)
            factors[name] = values.data
        scale = layer.scaling["made"]
        place = kohya("unet", module)["name"]
        tensors.update({f"{place}.{name}": value.contiguous() for name, value in factors.items()})
        tensors[f"{place}.alpha"] = torch.tensor(3.0)
        layers.append(Layer("unet", module, scale, make({k: v.double() for k, v in factors.items()})))
    return tensors, layers


def loha(f):
    def half(n):
        a, b = f[f"hada_w{n}_a"], f[f"hada_w{n}_b"]
        return tucker(f[f"hada_t{n}"], a, b) if f"hada_t{n}" in f else a @ b

    return lambda: half(1) * half(2)


def lokr(f):
    def factor(n):
        if f"lokr_w{n}" in f:
            return f[f"lokr_w{n}"]
        a, b = f[f"lokr_w{n}_a"], f[f"lokr_w{n}_b"]
        return tucker(f["lokr_t2"], a, b) if n == 2 and "lokr_t2" in f else a @ b

    def make():
        one, two = factor(1), factor(2)
        return torch.kron(one.reshape(*one.shape, *[1] * (two.ndim - 2)), two)

    return make


def locon(pipe, draws):
    """LyCORIS' convolutions with a kernel of their own between two pointwise factors."""
    tensors, layers = {}, []
    for module in CONVOLUTIONS[:2]:
        weight = pipe.unet.get_submodule(module).weight
        outputs, inputs, *kernel = weight.shape
        down, mid, up = draws(3, inputs, 1, 1, size=0.4), draws(3, 3, *kernel, size=0.4), draws(outputs, 3, 1, 1, size=0.4)
        names = kohya("unet", module)
        tensors |= {names["down"]: down, names["mid"]: mid, names["up"]: up, names["alpha"]: torch.tensor(2.0)}
        make = lambda u=up, m=mid, d=down: torch.einsum("op,pqkl,qi->oikl", *(x.double() for x in (u.flatten(1), m, d.flatten(1))))
        layers.append(Layer("unet", module, 2 / 3, make))
    return tensors, layers


def fresh(folder):
    return checkpoints.load(folder / "tiny-a")


def adapters(pipe):
    """Every layer of PEFT: part, module, layer."""
    for part in PARTS:
        for name, layer in getattr(pipe, part).named_modules():
            if isinstance(layer, peft.tuners.tuners_utils.BaseTunerLayer):
                yield part, name, layer


def check(pipe, used):
    """The deltas of the loaded adapters are those of the einsum."""
    found = {}
    for part, name, layer in adapters(pipe):
        name = name if part == "unet" or name.startswith("text_model.") else f"text_model.{name}"
        found[part, name] = sum(layer.get_delta_weight(a) for a in layer.active_adapters if a in layer.scaling)
    expected = {}
    for layers, scales in used:
        for layer in layers:
            weight = module_of(pipe, layer.part, layer.module).weight
            key = (layer.part, layer.module)
            expected[key] = expected.get(key, 0) + scales[layer.part] * layer.delta(weight.shape)
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    for key, delta in expected.items():
        error = (found[key].double() - delta).norm() / delta.norm()
        assert error < 1e-6, (key, error.item())


def merge(pipe, used):
    """Adds the changes to the weights."""
    for layers, scales in used:
        for layer in layers:
            weight = module_of(pipe, layer.part, layer.module).weight
            weight.data = (weight.double() + scales[layer.part] * layer.delta(weight.shape)).float()


def main(fixtures):
    fixtures = pathlib.Path(fixtures).resolve()
    out = fixtures / "lora"
    out.mkdir(exist_ok=True)
    pipe = fresh(fixtures)
    pairs = unet_modules(json.loads((fixtures / "tiny-a/unet/config.json").read_text()))
    original = lambda part, module: kohya(part, module, pairs)
    half, brain, single = torch.float16, torch.bfloat16, torch.float32
    files = {
        "kohya": plain(pipe, Draws(1, half), kohya, lambda index: 3.0, LINEAR),
        "alphas": plain(pipe, Draws(11, half), kohya, lambda index: 1.0 + index % 3, LINEAR[:4]),
        "original": plain(pipe, Draws(2, brain), original, lambda index: 2.0, LINEAR + CONVOLUTIONS + OUTSIDE, text=[]),
        "no-alpha": plain(pipe, Draws(3, single), kohya, None, LINEAR[:4], text=TEXT[:2]),
        "peft": plain(pipe, Draws(4, single), peft_names, None, LINEAR + CONVOLUTIONS),
        "old": plain(pipe, Draws(5, half), old_names, None, ATTENTION),
        "tucker": locon(pipe, Draws(6, half)),
    }
    # f8 values of a LoRA: rounded first, so that every reader sees the same numbers
    tensors, _ = plain(pipe, Draws(7, single), kohya, None, LINEAR[:4], text=[])
    files["f8"] = plain(pipe, Draws(7, single), kohya, None, LINEAR[:4], text=[])
    f8 = {name: values.to(torch.float8_e4m3fn) for name, values in tensors.items()}
    layers = []
    for module in LINEAR[:4]:
        names = kohya("unet", module)
        layers.append(Layer("unet", module, 1.0, product(f8[names["up"]], f8[names["down"]])))
    files["f8"] = (f8, layers)
    targets = [*LINEAR[:6], CONVOLUTIONS[0], CONVOLUTIONS[1], CONVOLUTIONS[3]]
    common = dict(target_modules=targets, alpha=3)
    # a high rank makes whole factors, rank 1 makes products of both
    ranks = {LINEAR[0]: 64, "mid_block.resnets.1.conv2": 2, LINEAR[3]: 2}
    configs = dict(
        loha=LoHaConfig(r=2, use_effective_conv2d=False, **common),
        lokr=LoKrConfig(r=1, use_effective_conv2d=True, decompose_both=True, decompose_factor=4, rank_pattern=ranks, **common),
    )
    configs["loha-core"] = LoHaConfig(r=2, use_effective_conv2d=True, **{**common, "target_modules": targets[-3:]})
    for seed, (name, config) in enumerate(configs.items()):
        make = lokr if name == "lokr" else loha
        files[name] = lycoris(fresh(fixtures), Draws(20 + seed, single), config, sorted(config.target_modules), make)
    for name, (tensors, _) in files.items():
        save_file({k: v.contiguous() for k, v in tensors.items()}, out / f"{name}.safetensors")
    save, layers = peft_settings(fresh(fixtures), Draws(10, single))
    save(str(out))
    files["settings"] = (None, layers)

    cases = [dict(name=name, loras=[[name, 1.0, 1.0]]) for name in files]
    cases[0]["loras"] = [["kohya", 0.75, 0.5]]
    cases.append(dict(name="three", loras=[["kohya", 0.8, 0.8], ["peft", -0.5, 0.25], ["original", 0.4, 0.4]]))
    expected, listed = {}, []
    for case in cases:
        pipe = fresh(fixtures)
        used = [(files[file][1], dict(unet=unet, text_encoder=text, text_encoder_2=text)) for file, unet, text in case["loras"]]
        if case["name"] in configs:
            config = configs[case["name"]]
            inject(config, pipe, config.target_modules)
            stored = load_file(out / f"{case['name']}.safetensors")
            for module in config.target_modules:
                for name, values in pipe.unet.get_submodule(module).named_parameters():
                    if name.endswith(".made"):
                        values.data = stored[f"{kohya('unet', module)['name']}.{name.removesuffix('.made')}"]
            check(pipe, used)
        elif case["name"] in ("tucker", "f8", "alphas"):
            merge(pipe, used)
        else:
            for index, (file, _, _) in enumerate(case["loras"]):
                pipe.load_lora_weights(str(out), weight_name=f"{file}.safetensors", adapter_name=f"l{index}")
            weights = [dict(unet=u, text_encoder=t, text_encoder_2=t) for _, u, t in case["loras"]]
            pipe.set_adapters([f"l{index}" for index in range(len(weights))], adapter_weights=weights)
            check(pipe, used)
        runs = dict(whole=CASE)
        if case["name"] in ("kohya", "three"):
            runs["pruned"] = PRUNED
        for kind, run in runs.items():
            _, final, _, _ = generate(pipe, run)
            expected[f"{case['name']}.{kind}"] = final.contiguous()
        merged = fresh(fixtures)
        merge(merged, used)
        _, final, _, _ = generate(merged, CASE)
        error = ((final - expected[f"{case['name']}.whole"]).norm() / final.norm()).item()
        _, unchanged, _, _ = generate(fresh(fixtures), CASE)
        effect = ((unchanged - final).norm() / final.norm()).item()
        print(f"{case['name']}: merged {error:.1e} from beside; effect {effect:.2f}")
        assert error < 1e-5 and effect > 0.02, case
        touched = {(layer.part, layer.module) for layers, _ in used for layer in layers}
        for part, module in sorted(touched):
            if module in KEPT:
                expected[f"{case['name']}.{part}.{module}"] = module_of(merged, part, module).weight.detach().contiguous()
        listed.append(case)
    save_file(expected, out / "expected.safetensors")
    record = dict(whole=CASE, pruned=PRUNED, cases=listed)
    (out / "cases.json").write_text(json.dumps(record, indent=1) + "\n")
    every = torch.arange(256, dtype=torch.uint8)
    values = dict(e4m3=every.clone().view(torch.float8_e4m3fn), e5m2=every.clone().view(torch.float8_e5m2))
    save_file({**values, **{f"{k}.f32": v.float() for k, v in values.items()}}, out / "f8_values.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])
