"""One engine in a process of its own, for peers.py: it says `ready`, then evaluates its U-Net once for every line that it reads.

    python engine.py NAME --dtype bf16 --size 1024 --batch 1 --threads 2 [--device cuda:0] [--config DIR] [--unfused]

It prints a JSON object for each line: seconds by the name of a row. If the engine cannot run, it prints {"failed": why}.
"""

import argparse
import gc
import json
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch

from sdcpp import StableDiffusionCpp
from unet import DTYPES, generated_unet, inputs


def say(**what):
    print(json.dumps(what), flush=True)


class Eager:
    """diffusers as it is."""

    def __init__(self, arguments):
        self.unet = generated_unet(arguments.config, arguments.dtype, arguments.device, arguments.unfused)
        self.positional, self.named = inputs(
            self.unet, arguments.dtype, arguments.size, arguments.factor, arguments.batch
        )
        self.device = torch.device(arguments.device)
        self.first = self.evaluate(self.unet)
        assert torch.isfinite(self.first.float()).all(), "a prediction is not finite"

    def evaluate(self, unet):
        return unet(*self.positional, **self.named, return_dict=False)[0]

    def timed(self, unet):
        self.wait()
        start = time.perf_counter()
        self.evaluate(unet)
        self.wait()
        return time.perf_counter() - start

    def wait(self):
        """Waits for the device, which works on its own."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def round(self):
        return {"diffusers": self.timed(self.unet)}


class Tomesd(Eager):
    """tomesd on diffusers' U-Net: with its default, and in every layer."""

    def __init__(self, arguments):
        super().__init__(arguments)
        import tomesd

        self.tomesd = tomesd

    def round(self):
        seconds = {}
        every = dict(max_downsample=8, merge_attn=True, merge_crossattn=True, merge_mlp=True)
        for name, more in (("tomesd, its default (r = .5)", {}), ("tomesd, every layer (r = .5)", every)):
            self.tomesd.apply_patch(self.unet, ratio=0.5, **more)
            seconds[name] = self.timed(self.unet)
            self.tomesd.remove_patch(self.unet)
        return seconds


class Compiled(Eager):
    """torch.compile with frozen weights, channels last."""

    def __init__(self, arguments):
        super().__init__(arguments)
        import torch._inductor.config as inductor

        inductor.freezing = True
        self.unet = self.unet.to(memory_format=torch.channels_last)
        # Frozen copies replace the weights; without this both would stay in memory.
        inductor.freezing_discard_parameters = True
        self.compiled = torch.compile(self.unet)
        start = time.perf_counter()
        self.distance = distance(self.evaluate(self.compiled), self.first)
        self.compile_seconds = time.perf_counter() - start

    def round(self):
        return {"torch.compile, frozen, channels last": self.timed(self.compiled)}


class OpenVino(Eager):
    """OpenVINO's CPU plugin; products in the dtype of the weights."""

    def __init__(self, arguments):
        super().__init__(arguments)
        import openvino
        from openvino.frontend.pytorch import patch_model

        unet, named = self.unet, self.named

        class Flat(torch.nn.Module):
            """The U-Net with positional inputs only, which a trace needs."""

            def __init__(self):
                super().__init__()
                self.unet = unet

            def forward(self, sample, timestep, text, pooled, ids):
                more = dict(text_embeds=pooled, time_ids=ids)
                return self.unet(sample, timestep, text, added_cond_kwargs=more, return_dict=False)[0]

        more = named["added_cond_kwargs"]
        example = (*self.positional, named["encoder_hidden_states"], more["text_embeds"], more["time_ids"])
        flat = Flat().eval()
        if arguments.dtype != "f32":
            # This keeps the weights in 16 bits and traces activations in f32. The hint below sets what computes.
            example = tuple(value.float() for value in example)
            # getattr, for a name with two underscores is another one inside a class
            getattr(patch_model, "__make_16bit_traceable")(flat)
        model = openvino.convert_model(flat, example_input=example)
        model.reshape({port: list(value.shape) for port, value in zip(model.inputs, example)})
        del flat, unet
        self.unet = None
        gc.collect()
        hint = {"f32": "f32", "bf16": "bf16", "f16": "f16"}[arguments.dtype]
        config = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": arguments.threads}
        start = time.perf_counter()
        self.compiled = openvino.Core().compile_model(model, "CPU", config)
        self.compile_seconds = time.perf_counter() - start
        del model
        gc.collect()
        self.request = self.compiled.create_infer_request()
        # OpenVINO has no bf16 in numpy; its own tensors share the numbers of torch's
        self.inputs = [self.tensor(openvino, value, port) for value, port in zip(example, self.compiled.inputs)]
        self.distance = distance(self.infer(), self.first)

    @staticmethod
    def tensor(openvino, value, port):
        kind = port.get_element_type()
        tensor = openvino.Tensor(kind, list(value.shape))
        if kind == openvino.Type.bf16:
            tensor.data[...] = value.to(torch.bfloat16).contiguous().view(torch.int16).numpy().view(tensor.data.dtype)
        else:
            tensor.data[...] = value.float().numpy()
        return tensor

    def infer(self):
        self.request.infer(self.inputs)
        output = self.request.get_output_tensor(0)
        if output.data.dtype.itemsize == 2 and output.element_type.to_string() == "bf16":
            import numpy

            return torch.from_numpy(output.data.view(numpy.int16).copy()).view(torch.bfloat16)
        return torch.from_numpy(output.data.copy())

    def round(self):
        start = time.perf_counter()
        self.infer()
        return {"OpenVINO": time.perf_counter() - start}


def distance(got, expected):
    """How far a prediction is from diffusers', in relative L2. Both round in their own places, and generated weights enlarge that. An
    engine that computes something else is refused."""
    apart = float((got.float() - expected.float()).norm() / expected.float().norm())
    assert apart < 0.5, f"the prediction is {apart:.3f} from diffusers' in relative L2"
    return apart


ENGINES = {"diffusers": Eager, "tomesd": Tomesd, "compile": Compiled, "openvino": OpenVino, "sdcpp": StableDiffusionCpp}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--config")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--factor", type=int, default=8)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--unfused", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with torch.inference_mode() if arguments.engine != "compile" else torch.no_grad():
        try:
            engine = ENGINES[arguments.engine](arguments)
        except Exception as error:  # every reason is a row of the table
            say(failed=f"{type(error).__name__}: {error}".splitlines()[0][:200])
            return
        say(
            ready=True, compile_seconds=getattr(engine, "compile_seconds", None), distance=getattr(engine, "distance", None)
        )
        for _ in sys.stdin:
            say(**engine.round())


if __name__ == "__main__":
    main()
