"""The words of the part recipe; those of single settings are in recipe_help.py and recipe_flags.py."""

from studio.words.recipe_help import CHINESE as SETTINGS

CHINESE: dict[str, str] = {
    **SETTINGS,
    # page.py
    "Model to train": "要训练的模型",
    "Device": "设备",
    "The weights of {model} are in none of these places: {places}. Put them there before you start.": (
        "在以下位置都没有找到 {model} 的权重：{places}。请在开始之前把权重放到其中一处。"
    ),
    "What it is for": "用途",
    "The model's own": "模型自带设置",
    "A subject from 3 to 5 photos, with the plainest settings.": "用 3 到 5 张照片学习一个主体，设置最简单。",
    "Person or pet": "人物或宠物",
    "5 to 20 photos in their own shapes; captions where there are any; LoRA in all linear layers.": (
        "5 到 20 张照片，保持各自的宽高比；有标注就使用标注；LoRA 用于所有线性层。"
    ),
    "Style": "画风",
    "20 to 100 pictures with captions that say what is in them, not how it is drawn; without class images.": (
        "20 到 100 张带标注的图片，标注写画了什么，而不写怎么画；不使用类别图片。"
    ),
    "Product": "产品",
    "An object that must come out exactly, from photos with masks; nothing is enlarged.": (
        "必须精确还原的物体，使用带掩码的照片；照片不会被放大。"
    ),
    "The imported recipe": "导入的配方",
    "As it was read, over the model's own.": "按读入的内容，叠加在模型自带设置之上。",
    "A style is trained without class images: leave their prompt empty.": "训练画风时不使用类别图片：请将类别提示词留空。",
    "{n} photos are trained on.": "将用 {n} 张照片训练。",
    "Add photos first": "请先添加照片",
    "Prompt of the photos": "照片的提示词",
    "What the photos show, with a rare word for the subject, e.g. a photo of a sks dog. Captions of photos go first.": (
        "照片里是什么，用一个罕见词代表主体，例如 a photo of a sks dog。照片若有自己的标注，则以标注为准。"
    ),
    "Prompt of the class": "类别的提示词",
    "What is kept as it was, e.g. a photo of a dog: images of it are sampled and trained beside. Empty: without them.": (
        "需要保持原样的类别，例如 a photo of a dog：会生成该类别的图片并一同训练。留空则不使用。"
    ),
    "Prompts of the pictures on the way": "训练途中图片的提示词",
    "the prompt of the photos": "照片的提示词",
    "One a line; empty: the prompt of the photos. Behind a prompt may stand --w and --h for the size, --d for the seed, --s for "
    "the steps, --l for the guidance and --n for the negative prompt.": (
        "每行一个；留空则使用照片的提示词。提示词后面可以加 --w 和 --h 表示尺寸，--d 表示种子，--s 表示步数，--l 表示引导强度，"
        "--n 表示反向提示词。"
    ),
    "Name": "名称",
    "Of the training and of its folder; empty: made from the prompt.": "训练及其文件夹的名称；留空则由提示词生成。",
    "it has {n} characters: give at most {most}": "共有 {n} 个字符：最多 {most} 个",
    "All other settings, by topic": "其他所有设置（按主题）",
    "Take back my {n} changes": "撤销我的 {n} 处修改",
    "All settings are again those of the chosen recipe; prompts and photos stay.": (
        "所有设置恢复为所选配方的内容；提示词和照片保留不变。"
    ),
    "Start training": "开始训练",
    "It goes into the queue, and trains on when this page is closed.": "任务会进入队列，关闭本页面后训练仍会继续。",
    "The YAML and the command": "YAML 与命令",
    "Download the whole YAML": "下载完整的 YAML",
    "With all that it inherits, so that it is complete in any folder.": "包含其继承的全部内容，放在任何文件夹中都可使用。",
    "Masks count in this recipe, but no photo has one: paint some in the part Photos, or let masks not count.": (
        "此配方使用掩码，但没有照片带掩码：请在“照片”部分涂画，或关闭掩码。"
    ),
    # arithmetic.py
    "{total} updates with {n} photos each; there are no photos yet.": "共 {total} 次更新，每次 {n} 张照片；目前还没有照片。",
    "{total} updates with {n} photos each: every one of the {photos} photos is seen about {times} times, which is {epochs} "
    "epochs of {photos} x {repeats} = {samples}.": (
        "共 {total} 次更新，每次 {n} 张照片：{photos} 张照片中的每一张约被看到 {times} 次，即 {epochs} 轮，每轮 {photos} x {repeats} = "
        "{samples}。"
    ),
    "As many class images are seen beside them; all {wanted} are there already.": (
        "同时会看到同样多的类别图片；所需的 {wanted} 张都已存在。"
    ),
    "As many class images are seen beside them; {missing} of {wanted} are sampled first.": (
        "同时会看到同样多的类别图片；{wanted} 张中会先生成 {missing} 张。"
    ),
    "A LoRA is saved every {n} updates.": "每 {n} 次更新保存一个 LoRA。",
    "Pictures are drawn every {n} updates.": "每 {n} 次更新生成一次图片。",
    # command.py, tree.py, starting.py
    "no model of this page can be trained: name a training YAML for one in demo/sampling.py": (
        "本页面没有可以训练的模型：请在 demo/sampling.py 中为模型指定训练用的 YAML"
    ),
    "{model} has no YAML for training on {device}: choose another device": "{model} 没有用于在 {device} 上训练的 YAML：请选择其他设备",
    "the recipe": "配方",
    "the imported recipe is not there any more: import it again, or choose a preset": (
        "导入的配方已不存在：请重新导入，或选择一个预设"
    ),
    "there are no photos to train on: add some in the part Photos": "没有可用于训练的照片：请在“照片”部分添加",
    "{n} photos have no caption, so the prompt of the photos is needed: say what they show": (
        "有 {n} 张照片没有标注，因此需要照片的提示词：请写明照片里是什么"
    ),
    "the weights of {model} are in none of the places that were looked at ({places}): put them there, or choose "
    "another model": "在查找过的位置（{places}）都没有 {model} 的权重：请把权重放到那里，或选择其他模型",
    # controls.py
    "not set": "未设置",
    "it is empty: give a value": "不能为空：请填写一个值",
    # importing.py, taking_over.py
    "Import a recipe of another trainer": "导入其他训练工具的配方",
    "Recipe files": "配方文件",
    "Settings of kohya_ss, sd-scripts, OneTrainer, ai-toolkit, a text with a command of sd-scripts or diffusers, or a LoRA "
    "that says how it was trained. Settings that are in two files: give both, the recipe first.": (
        "kohya_ss、sd-scripts、OneTrainer、ai-toolkit 的设置，含有 sd-scripts 或 diffusers 命令的文本，或记录了训练方式的 LoRA。"
        "设置分在两个文件中时，请同时给出，配方在前。"
    ),
    "Keep the size of pictures that the model is trained at here": "保持模型在此处训练所用的图片尺寸",
    "Off: the size that the recipe says, which may need more memory than there is.": (
        "关闭：使用配方中的尺寸，所需内存可能超过现有内存。"
    ),
    "Read the recipe": "读取配方",
    "{name} is a recipe of {tool}: {counts}.": "{name} 是 {tool} 的配方：{counts}。",
    "unknown": "未知",
    "not supported": "不支持",
    "differs": "有差异",
    "taken over": "已采用",
    "There are no photos yet: {n} are assumed where epochs had to be counted.": (
        "还没有照片：在需要计算轮数的地方按 {n} 张照片计算。"
    ),
    "{name} is no recipe: give a file that ends in {suffixes}": "{name} 不是配方：请提供以 {suffixes} 结尾的文件",
    "{name} is too large for a recipe: at most {most} bytes": "{name} 作为配方太大：最多 {most} 字节",
    "{name} asks for what does not go together here: {reason}": "{name} 的要求在这里无法同时满足：{reason}",
    "the command reads {file}: give that file as well, or instead of the command": (
        "该命令会读取 {file}：请同时提供该文件，或用它代替命令"
    ),
}
