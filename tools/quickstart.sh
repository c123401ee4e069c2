#!/usr/bin/env bash
# From nothing to a model that knows a new dog, on a CPU: five photos of it, a LoRA for the small model that comes with the
# project, pictures without and with the LoRA, and all of them on one sheet, in runs/quickstart.
set -euo pipefail
cd "$(dirname "$0")/.."
here=runs/quickstart
weight=checkpoints/small_sdxl.safetensors
lora=$here/SDXL_base_1.0_300_lora.ckpt
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/pip install -q -r requirements.txt
mkdir -p $here
[ -d $here/photos ] || .venv/bin/python tools/draw_world.py --subject training --output $here/photos
[ -f $lora ] || .venv/bin/python train_dreambooth.py --config configs/training/small_dreambooth_lora_cpu.yaml \
  --weight $weight \
  --instance_data_path $here/photos --instance_prompt "A photo of a sks dog" \
  --class_data_path $here/class --class_prompt "A photo of a dog" \
  --save_path $here --device_target CPU
printf '%s\n' "a sks dog swimming in a pool" "A photo of a sks dog in the snow" "A photo of a sks dog in a bucket" \
  "A photo of a sks dog in a doghouse" > $here/prompts.txt
sample() { # folder, weights
  [ -d $here/"$1" ] || .venv/bin/python demo/sampling_without_streamlit.py --task txt2img \
    --config configs/inference/small_sdxl.yaml --weight "$2" --prompt $here/prompts.txt --height 96 --width 96 \
    --sample_step 30 --num_cols 2 --save_path $here/"$1" --device_target CPU
}
sample base $weight
sample tuned $weight,$lora
.venv/bin/python tools/contact_sheet.py --output $here/sheet.png \
  --row "photos of the subject=$here/photos" --row "base model=$here/base" --row "with the LoRA=$here/tuned"
echo "look at $here/sheet.png, and at the losses in $here/loss.png"
