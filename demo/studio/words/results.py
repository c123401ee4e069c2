"""The words of the part results."""

CHINESE: dict[str, str] = {
    # all of it
    "Run": "训练",
    "No run has saved a LoRA yet. Choose photos and start a training, its results appear here.": (
        "还没有训练保存过 LoRA。请先选择照片并开始训练，结果会出现在这里。"
    ),
    "Go to the photos": "去选择照片",
    "(the folder of runs itself)": "（训练总文件夹本身）",
    "What to see of the run": "查看哪些内容",
    "Checkpoints": "检查点",
    "Compare": "对比",
    "Take along": "导出与使用",
    "prompt of the photos: {prompt}": "照片的提示词：{prompt}",
    "1 checkpoint, step {step}": "1 个检查点，第 {step} 步",
    "{n} checkpoints, steps {first} to {last}": "{n} 个检查点，第 {first} 步至第 {last} 步",
    "model: {name}": "模型：{name}",
    "of a model that this page does not have": "所用模型不在本页面中",
    "the file {name} is not a picture that can be read": "文件 {name} 不是可以读取的图片",
    "{field}: give a whole number from {least} to {most}": "{field}：请填写 {least} 到 {most} 之间的整数",
    # checkpoints
    "Take step {step}: score {score}": "推荐第 {step} 步：得分 {score}",
    "its file is not there any more": "它的文件已不存在",
    "Pictures on the way": "训练途中的图片",
    "This run drew no pictures while it trained. Compare draws some now.": "这次训练没有在过程中生成图片。可以在“对比”中现在生成。",
    "After so many updates": "训练步数",
    "Scores of the checkpoints": "检查点的得分",
    "A point is a checkpoint, at 0 the base model; the diamond marks the one to take.": (
        "每个点是一个检查点，0 处是基础模型；菱形标出推荐使用的检查点。"
    ),
    "What the score is made of": "得分的组成",
    "Pictures of all checkpoints": "所有检查点的图片",
    "Training": "训练过程",
    "Loss": "损失",
    "Learning rate": "学习率",
    "What went well or wrong": "诊断：哪些顺利，哪些有问题",
    "What was trained on": "训练所用的数据",
    "the diagnosis": "诊断文件",
    # curves
    "photos": "照片",
    "class images": "类别图片",
    "loss": "损失",
    "loss, smoothed": "损失（平滑后）",
    "learning rate": "学习率",
    "updates": "更新次数",
    "value": "数值",
    "base model": "基础模型",
    "real photos": "真实照片",
    "Score: higher is better": "得分：越高越好",
    "Subject fidelity: higher is better": "主体还原度：越高越好",
    "Prompt fidelity: higher is better": "提示词符合度：越高越好",
    "Likeness of the class to the subject (PRES): lower is better": "类别与主体的相似度（PRES）：越低越好",
    "Variety of the class (DIV): higher is better": "类别的多样性（DIV）：越高越好",
    # why a checkpoint was chosen
    "no checkpoint is nearer to the subject than the base model": "没有检查点比基础模型更接近主体",
    "it is the only checkpoint": "它是唯一的检查点",
    "it is the first with half of the subject; more updates may bring more": "它是第一个学到主体一半特征的检查点；继续训练可能更好",
    "the score still rises: {now}, after {before} at {step}; more updates may bring more": (
        "得分仍在上升：现为 {now}，第 {step} 步时为 {before}；继续训练可能更好"
    ),
    "the subject gains {by}": "主体提高 {by}",
    "the subject loses {by}": "主体降低 {by}",
    "the prompt gains {by}": "提示词符合度提高 {by}",
    "the prompt loses {by}": "提示词符合度降低 {by}",
    "the class gains {by}": "类别保持度提高 {by}",
    "the class loses {by}": "类别保持度降低 {by}",
    "after step {step}: {changes} (at {last})": "第 {step} 步之后：{changes}（到第 {last} 步）",
    # scoring
    "Score the checkpoints": "给检查点打分",
    "Score the checkpoints again": "重新给检查点打分",
    "The page does not have the model that this run trained, so it cannot draw pictures with it.": (
        "本页面没有这次训练所用的模型，因此无法用它生成图片。"
    ),
    "The judge that comes with the project knows the drawn world alone. Photos are compared by CLIP and DINO: with torch, "
    "transformers and the folders {folders} this page can do it; the command says what is missing.": (
        "项目自带的评判网络只认识绘制的世界。照片需要用 CLIP 和 DINO 来比较：安装 torch、transformers 并准备好文件夹 {folders} "
        "后，本页面就能评分；下面的命令会说明缺少什么。"
    ),
    "the weights {path} are not there: put them there, then press again": "权重 {path} 不存在：请放到该位置后再试",
    "Every checkpoint draws the same pictures, which are compared with the photos: how much of the subject is there, whether "
    "the prompt is followed, and whether others of its class stay as they were.": (
        "每个检查点生成同样的一组图片并与照片比较：主体学到了多少，是否遵循提示词，以及同类的其他对象是否保持原样。"
    ),
    "Folder of the photos": "照片所在文件夹",
    "What the prompt calls the subject": "提示词中主体的名称",
    "Prompt for others of its class": "同类其他对象的提示词",
    "Pictures of each prompt": "每个提示词的图片数",
    "{n} pictures are drawn for it.": "将为此生成 {n} 张图片。",
    "Start scoring": "开始打分",
    "the folder of the photos is empty: give the one that the run was trained on": "没有填写照片文件夹：请填写训练所用的照片文件夹",
    "the subject or the prompt of its class is empty: say both, such as sks dog and A photo of a dog": (
        "主体名称或类别提示词为空：请两者都填写，例如 sks dog 和 A photo of a dog"
    ),
    "the folder of the photos": "照片文件夹",
    "one photo cannot be compared with itself: the folder needs at least two": "一张照片无法与自己比较：文件夹中至少需要两张",
    "The scoring waits for its turn.": "打分任务正在排队。",
    "The checkpoints are being scored.": "正在给检查点打分。",
    "The last scoring did not come to its end.": "上一次打分没有完成。",
    "See the job": "查看任务",
    # compare
    "What to compare": "对比什么",
    "Prompt": "提示词",
    "LoRA": "LoRA",
    "The base model beside them": "同时显示基础模型",
    "Strengths": "强度（可多选）",
    "First seed": "起始种子",
    "Seeds": "种子个数",
    "Sampling steps": "采样步数",
    "Negative prompt": "负面提示词",
    "{n} pictures.": "共 {n} 张图片。",
    "Make the pictures": "生成图片",
    "Steps of {name}": "{name} 的步数（可多选）",
    "{path} was made for another model than {model}: compare LoRA of one model": (
        "{path} 是为 {model} 以外的模型训练的：请对比同一模型的 LoRA"
    ),
    "no LoRA is chosen: choose the one or the several that are to be compared": "没有选择 LoRA：请选择要对比的一个或多个",
    "no step of {name} is chosen: choose one or several": "没有选择 {name} 的步数：请选择一个或多个",
    "no strength is chosen: choose one or several": "没有选择强度：请选择一个或多个",
    "the prompt is empty: say in words what the pictures show": "提示词为空：请用文字描述图片内容",
    "these are {n} pictures, more than {most} at once: choose fewer steps, strengths or seeds": (
        "这将是 {n} 张图片，一次最多 {most} 张：请减少步数、强度或种子"
    ),
    "step {step} of {name} is not there any more: choose another": "{name} 的第 {step} 步已不存在：请另选一个",
    "{path} has a comma in its name, which separates weights: rename its folder": (
        "{path} 的名称中有逗号，而逗号用来分隔权重：请重命名其文件夹"
    ),
    "Side by side": "并排对比",
    "{time} left": "剩余 {time}",
    "{n} s": "{n} 秒",
    "{n} min": "{n} 分钟",
    "Stop": "停止",
    "The pictures that are done stay.": "已完成的图片会保留。",
    "Strength": "强度",
    "Step of {name}": "{name} 的步数",
    "step {step}, strength {strength}": "第 {step} 步，强度 {strength}",
    "seed {seed}: not there yet": "种子 {seed}：尚未生成",
    "seed {seed}": "种子 {seed}",
    "{n} of {all} pictures are not there.": "{all} 张图片中有 {n} 张尚未生成。",
    # taking a LoRA along
    "Trigger prompt: {prompt}": "触发提示词：{prompt}",
    "It does not say its trigger prompt.": "文件没有写明触发提示词。",
    "DoRA": "DoRA",
    "{kind} of rank {ranks} and alpha {alphas} in {n} layers, {size} MB": "{kind}，秩 {ranks}，alpha {alphas}，共 {n} 层，{size} MB",
    "Trained on {base} with a learning rate of {rate}": "基于 {base} 训练，学习率 {rate}",
    "All that the file says": "文件中的全部信息",
    "Make pictures with it": "用它生成图片",
    "The file": "原始文件",
    "Read {name}": "读取 {name}",
    "Download {name}": "下载 {name}",
    "For other tools": "用于其他工具",
    "Layout": "文件格式",
    "ComfyUI, A1111, sd-scripts and diffusers": "适用于 ComfyUI、A1111、sd-scripts 和 diffusers",
    "ComfyUI, A1111 and diffusers": "适用于 ComfyUI、A1111 和 diffusers",
    "diffusers (PEFT)": "适用于 diffusers（PEFT）",
    "older scripts of diffusers": "适用于 diffusers 的旧脚本",
    "Numbers": "数值类型",
    "float32, as it was trained": "float32，与训练时相同",
    "float16, half as large": "float16，大小减半",
    "bfloat16, half as large": "bfloat16，大小减半",
    "Write the file": "生成文件",
    "writing the file": "正在写入文件",
    "a DoRA in this layout needs the base weights, which are not there: put them there, or choose another layout": (
        "这种格式的 DoRA 需要基础权重，但权重不存在：请放好权重，或选择其他格式"
    ),
}
