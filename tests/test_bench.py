"""What the benchmarks count and read; that they run is for a person to see, times are not tested."""

import sys

import numpy as np
import pytest

import tiny
from bench import counts, operators, watch
from gm.config.load import load_config

FULL = tiny.ROOT / "configs" / "training" / "sd_xl_base_finetune_dreambooth_lora_cpu.yaml"


@pytest.mark.parametrize(
    "config, pixels, forward, backward",
    [
        (FULL, 256, 428_693_196_800, 370_024_325_120),
        (FULL, 1024, 6_771_581_849_600, 7_323_950_981_120),
        (tiny.TRAINING, 128, 483_216_128, 452_075_264),
    ],
)
def test_operations_are_those_that_pytorch_counts(config, pixels, forward, backward):
    """FlopCounterMode of PyTorch 2.13 on diffusers 0.42.1's UNet with peft 0.21.2's LoRA of rank 4, one sample."""
    work = counts.unet_work(load_config(str(config)).model.unet, pixels, 4)
    assert (work.forward, work.backward) == (forward, backward)


def test_what_the_products_of_the_text_save():
    """2 x 77 x 2048 operations for each of 10 x 640 and 60 x 1280 keys, and for as many values."""
    model = load_config(str(FULL)).model.unet
    whole, known = counts.unet_work(model, 256, 4), counts.unet_work(model, 256, 4, text_products=True)
    assert whole.forward - known.forward == 2 * 77 * 2048 * 2 * (10 * 640 + 60 * 1280)
    assert whole.backward == known.backward


def test_numbers_that_the_table_of_a_step_is_made_of():
    config = load_config(str(FULL))
    assert counts.lora_numbers(config.model.unet, 4) == 5_806_080
    assert counts.vae_encoding(config.model.vae, 1024) / 1e12 == pytest.approx(4.88, abs=0.005)
    table = counts.step_table(config, 1024)
    assert "23,224,340" in table and "| TFLOP, encoders | 0 | 9.98 |" in table


def test_lora_numbers_of_the_tiny_model():
    from gm.models.sdxl import expected_shapes

    shapes = expected_shapes(tiny.model(), tiny.adapters())[1]
    assert counts.lora_numbers(tiny.model().unet, 4) == sum(int(np.prod(shape)) for shape in shapes.values())


def test_the_profilers_lines():
    lines = [
        "Default/net/MatMul-op3;HostCpuOps;1,500,0 2,20,0 3,40,0 ",
        "Default/net/MatMul-op4;HostCpuOps;1,1,0 1,1,0 2,10,0 2,10,0 3,10,0 3,10,0 ",
        "Gradients/Default/Grad_MatMul/MatMul-op9;HostCpuOps;1,900,0 2,100,0 3,300,0 ",
        "Default/Once-op1;HostCpuOps;1,7000,0 ",
    ]
    shares = operators.read("\n".join(lines), [9.0, 0.3, 0.4])
    assert shares.operators == pytest.approx({"MatMul": 0.25})
    assert shares.largest(3) == ["MatMul"] and "| MatMul | 0.250 | 100.0% |" in operators.table(shares)


def test_memory_of_a_process_and_its_child(tmp_path):
    """200 MB here and 300 MB in a child at the same time."""
    child = "import time; b = b'x' * 300_000_000; time.sleep(1.5)"
    program = (
        f"import subprocess, sys; b = b'x' * 200_000_000; subprocess.run([sys.executable, '-c', {child!r}]); print('end')"
    )
    finished = watch.run([sys.executable, "-c", program], tmp_path / "log", {})
    assert finished.output == "end\n" and finished.seconds > 1.5
    assert 0.3 < finished.largest_gb < 0.45 and 0.5 < finished.tree_gb < 0.7
    with pytest.raises(SystemExit, match="status"):
        watch.run([sys.executable, "-c", "raise ValueError('no')"], tmp_path / "log", {})
