#!/usr/bin/env bash
# From nothing to a trained LoRA and pictures on a CPU: a tiny random model and drawn photos of a dog, in runs/quickstart.
set -euo pipefail
cd "$(dirname "$0")/.."
here=runs/quickstart
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/pip install -q -r requirements.txt
mkdir -p $here
[ -f $here/tiny_sdxl.safetensors ] || .venv/bin/python tools/make_random_checkpoint.py \
  --config configs/inference/tiny_sdxl.yaml --output $here/tiny_sdxl.safetensors
[ -d $here/photos ] || .venv/bin/python tools/draw_world.py --subject training --output $here/photos
.venv/bin/python train_dreambooth.py --config configs/training/tiny_dreambooth_lora_cpu.yaml \
  --weight $here/tiny_sdxl.safetensors \
  --instance_data_path $here/photos --instance_prompt "A photo of a sks dog" \
  --class_data_path $here/class --class_prompt "A photo of a dog" --num_class_images 4 --sample_step 10 \
  --log_interval 5 --save_path $here --device_target CPU
for weight in $here/tiny_sdxl.safetensors $here/tiny_sdxl.safetensors,$here/SDXL_base_1.0_20_lora.ckpt; do
  .venv/bin/python demo/sampling_without_streamlit.py --task txt2img --config configs/inference/tiny_sdxl.yaml \
    --weight $weight --prompt "a sks dog swimming in a pool" --height 128 --width 128 --sample_step 10 --num_cols 2 \
    --save_path $here/pictures --device_target CPU
done
echo "look at $here/loss.png and at the contact sheets in $here/pictures"
