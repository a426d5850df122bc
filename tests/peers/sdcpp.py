"""stable-diffusion.cpp on a generated checkpoint of SD-XL's size, for engine.py. It evaluates one U-Net step for each call.

It has no U-Net to call alone. So one long generation runs in a thread, and its callback at each step's end waits for the next call.
Each step has one row (guidance 1). The text encoders run before the first step, and the autoencoder never runs.
"""

import queue
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "target/peers/sdxl-generated.safetensors"
STEPS = 1000


def made_checkpoint():
    """The file, made once: 7 GB in f16, under the names of a single-file checkpoint."""
    if not CHECKPOINT.is_file():
        sys.path.insert(0, str(ROOT / "tests/python"))
        import safetensors.torch
        import sdxl_sized
        import single_file

        CHECKPOINT.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CHECKPOINT.parent) as folder:
            folder = Path(folder) / "sdxl"
            sdxl_sized.main([str(folder)])
            part = CHECKPOINT.with_suffix(".part")
            tensors = {name: tensor.contiguous() for name, tensor in single_file.single_file(folder).items()}
            safetensors.torch.save_file(tensors, str(part))
            part.rename(CHECKPOINT)
    return CHECKPOINT


class StableDiffusionCpp:
    """The engine. The first step, which is slower, is over when it is made."""

    def __init__(self, arguments):
        if arguments.dtype == "f32" or arguments.device != "cpu" or arguments.config or arguments.unfused or arguments.batch != 1:
            raise ValueError("it is timed only with weights in f16, on the CPU, on SD-XL base, with batch 1")
        checkpoint = made_checkpoint()
        import stable_diffusion_cpp

        # Without flash attention, it stores every attention map. If it is not verbose, it takes the standard output away.
        self.model = stable_diffusion_cpp.StableDiffusion(
            model_path=str(checkpoint), n_threads=arguments.threads, diffusion_flash_attn=True, enable_mmap=True, verbose=True
        )
        self.ends, self.go, self.size = queue.Queue(), threading.Semaphore(0), arguments.size
        threading.Thread(target=self.generate, daemon=True).start()
        self.answer()

    def generate(self):
        try:
            self.model.generate_image(
                prompt="a", width=self.size, height=self.size, cfg_scale=1.0, sample_steps=STEPS, sample_method="euler",
                progress_callback=self.step_ended,
            )
            raise RuntimeError("the generation is over")
        except Exception as error:
            self.ends.put(error)

    def step_ended(self, step, _steps, _mean_seconds):
        """Called by the library. Step 0 is the beginning."""
        if step > 0:
            self.ends.put(time.perf_counter())
        self.go.acquire()

    def answer(self):
        """Seconds of the next step."""
        begin = time.perf_counter()
        self.go.release()
        end = self.ends.get()
        if isinstance(end, Exception):
            raise end
        return end - begin

    def round(self):
        return {"stable-diffusion.cpp, weights in f16": self.answer()}
