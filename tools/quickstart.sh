#!/usr/bin/env bash
# From nothing to a LoRA and pictures on a CPU: the small model learns five drawn photos of a dog, in runs/quickstart.
# PYTHON=python3.11 chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
here=runs/quickstart base=checkpoints/small_sdxl.safetensors python=.venv/bin/python
lora=$here/SDXL_base_1.0_500_lora.ckpt  # total_step of the YAML
export PIP_DISABLE_PIP_VERSION_CHECK=1
if [ ! -x $python ]; then
  bash tools/check_python.sh "${PYTHON:-python3}"
  "${PYTHON:-python3}" -m venv .venv
fi
echo "installing the packages into .venv ..."
.venv/bin/pip install -q -r requirements.txt
mkdir -p $here
[ -d $here/photos ] || $python tools/draw_world.py --subject training --output $here/photos
[ -f $lora ] || $python train_dreambooth.py --config configs/training/small_dreambooth_lora_cpu.yaml --weight $base \
  --instance_data_path $here/photos --instance_prompt "A photo of a sks dog" \
  --class_data_path $here/class --class_prompt "A photo of a dog" --sample_step 30 --sample_batch_size 8 \
  --save_path $here --device_target CPU

# the same prompts and seeds without and with the LoRA
printf 'a sks dog %s\n' "swimming in a pool" "in the snow" "in a bucket" "in a doghouse" > $here/prompts.txt
pictures() {  # FOLDER WEIGHT
  [ -d $here/$1 ] && return
  rm -rf $here/$1.part
  $python demo/sampling_without_streamlit.py --task txt2img --config configs/inference/small_sdxl.yaml --weight $2 \
    --prompt $here/prompts.txt --height 64 --width 64 --sample_step 30 --num_cols 2 --save_path $here/$1.part --device_target CPU
  mv $here/$1.part $here/$1
}
pictures base $base
pictures tuned $base,$lora
$python tools/contact_sheet.py --row "five photos=$here/photos" --row "base model=$here/base" --row "with the LoRA=$here/tuned" \
  --output $here/sheet.png
echo "look at $here/sheet.png"
