"""The words of single settings of the part recipe: their names, and what they do."""

TOPICS = {
    "LoRA": "LoRA",
    "Text encoders": "文本编码器",
    "Optimizer": "优化器",
    "Rates": "学习率",
    "Loss and noise": "损失与噪声",
    "Captions": "标注",
    "Crops and shapes": "裁剪与形状",
    "Masks": "掩码",
    "Updates": "更新次数",
    "Class images": "类别图片",
    "Pictures on the way": "训练途中的图片",
    "Saved files": "保存的文件",
    "Scores": "评分",
    "Machine": "运行环境",
}

FLAGS = {
    "Repeats of a photo": "每张照片的重复次数",
    "Batches of an update": "每次更新的批次数",
    "Clip the gradient": "梯度裁剪",
    "Largest norm of the gradient": "梯度范数上限",
    "Loss scale": "损失缩放方式",
    "First loss scale": "初始损失缩放",
    "Updates until the scale doubles": "缩放翻倍前的更新次数",
    "Update after an overflow as well": "溢出后也更新",
    "Weight of the class images": "类别图片的权重",
    "Pictures while it trains": "训练时生成图片",
    "Updates between pictures": "图片之间的更新次数",
    "Sampling steps of these pictures": "这些图片的采样步数",
    "Class images sampled at once": "同时采样的类别图片数",
    "Updates between LoRA files": "LoRA 文件之间的更新次数",
    "Minutes between LoRA files": "LoRA 文件之间的分钟数",
    "LoRA files that are kept": "保留的 LoRA 文件数",
    "Another layout as well": "另存为其他格式",
    "Updates between log lines": "日志行之间的更新次数",
    "Updates between scores": "评分之间的更新次数",
    "What compares pictures": "图片比较方式",
    "Pictures of a prompt for the scores": "评分时每个提示词的图片数",
    "Stop when it has learned": "学会后停止",
    "Seed": "种子",
    "Mode of MindSpore": "MindSpore 模式",
    "Precision": "精度",
    "Compilation for Ascend": "Ascend 编译方式",
    "Memory of the device": "设备内存",
    "Encode photos once": "照片只编码一次",
    "Keep the products of the prompts": "保留提示词的乘积",
}

SUBJECT = {
    "How long it trains: optimizer updates. Too few learn nothing, too many copy the photos.": (
        "训练多久：优化器的更新次数。太少学不会，太多则会照抄照片。"
    ),
    "Learning rate": "学习率",
    "How far an update goes: 1e-4 is common for SDXL with AdamW, 1 for Prodigy. Too large breaks the pictures.": (
        "每次更新的幅度：SDXL 配 AdamW 常用 1e-4，Prodigy 用 1。太大会毁坏画面。"
    ),
    "Rank": "秩",
    "How much the LoRA can hold: 4 to 16 for a subject, up to 64 for a style. A larger one needs more memory and disk.": (
        "LoRA 的容量：主体用 4 到 16，画风可到 64。越大需要的内存和磁盘越多。"
    ),
    "Alpha": "Alpha",
    "The LoRA's change is times alpha / rank. Equal to the rank, or half of it, are common.": (
        "LoRA 的改变量乘以 alpha / 秩。常用与秩相等或其一半的值。"
    ),
    "Photos at once": "每批照片数",
    "In a batch, and as many class images. More needs more memory and makes updates calmer.": (
        "一批中的照片数，类别图片同样多。越多需要的内存越多，更新也越平稳。"
    ),
    "Size, pixels": "尺寸（像素）",
    "Photos are scaled and cut to this size. 1024 is SDXL's own; less is faster and coarser.": (
        "照片会缩放并裁剪到此尺寸。1024 是 SDXL 本身的尺寸；越小越快，也越粗糙。"
    ),
    "Layers with LoRA": "使用 LoRA 的层",
    "attention: its projections. linear: all linear layers of the transformers. all: convolutions too (LoCon), for styles.": (
        "attention：注意力的投影层。linear：Transformer 的所有线性层。all：还包括卷积（LoCon），适合画风。"
    ),
    "Kind": "类型",
    "lora, or dora, which learns the length of each row of the weight by itself: closer, and slower.": (
        "lora；或 dora，它单独学习权重每一行的长度：更贴近主体，但更慢。"
    ),
    "Rank-stabilised (rsLoRA)": "秩稳定（rsLoRA）",
    "The change is times alpha / root of the rank, so that large ranks learn as fast as small ones.": (
        "改变量乘以 alpha / 秩的平方根，使大秩与小秩学得一样快。"
    ),
    "Rank of convolutions": "卷积的秩",
    "Empty: as of the others.": "留空：与其他层相同。",
    "Alpha of convolutions": "卷积的 Alpha",
    "Dropout of inputs": "输入丢弃率",
    "The share of the LoRA's inputs that is zeroed while training, against learning by heart; 0 is none.": (
        "训练时 LoRA 输入中被置零的比例，防止死记硬背；0 表示不丢弃。"
    ),
    "Dropout of neurons": "神经元丢弃率",
    "The share of the outputs of A that is zeroed while training.": "训练时矩阵 A 的输出中被置零的比例。",
    "Dropout of ranks": "秩丢弃率",
    "The share of the ranks that a sample goes without while training.": "训练时每个样本不使用的秩的比例。",
    "Dropout of layers": "层丢弃率",
    "The probability that a layer's LoRA is left out of an update.": "某一层的 LoRA 在一次更新中被略过的概率。",
    "Train the text encoders as well": "同时训练文本编码器",
    "LoRA in both text encoders. Faces and names can come out closer; it wants a smaller rate and more memory.": (
        "在两个文本编码器中加入 LoRA。人脸和名字可能更像；需要更小的学习率和更多内存。"
    ),
    "Rank in the text encoders": "文本编码器的秩",
    "How much their LoRA can hold.": "其 LoRA 的容量。",
    "Alpha in the text encoders": "文本编码器的 Alpha",
    "Their LoRA's change is times alpha / rank.": "其 LoRA 的改变量乘以 alpha / 秩。",
    "Learning rate of text encoder 1": "文本编码器 1 的学习率",
    "A third to a tenth of the UNet's is common; 0 trains it not; empty: the learning rate of all.": (
        "常用 UNet 学习率的三分之一到十分之一；0 表示不训练；留空则使用统一的学习率。"
    ),
    "Learning rate of text encoder 2": "文本编码器 2 的学习率",
    "As of the first.": "同第一个。",
    "Share of the run that they train": "参与训练的进程比例",
    "After this share of the updates the text encoders stay as they are; 1 is to the end.": (
        "更新进行到此比例之后，文本编码器不再变化；1 表示一直训练到结束。"
    ),
    "Trigger word": "触发词",
    "Stands in place of [trigger] in a caption, or in front of a caption without it.": (
        "替换标注中的 [trigger]；标注中没有它时放在最前面。"
    ),
    "Words in front": "前缀",
    "In front of every caption.": "加在每条标注之前。",
    "Words behind": "后缀",
    "Behind every caption.": "加在每条标注之后。",
    "Shuffle the tags": "打乱标签",
    "The parts between commas come in another order every time.": "逗号之间的各部分每次以不同顺序出现。",
    "Tags that stay in front": "固定在前的标签数",
    "So many are not shuffled or left out.": "这么多个标签不会被打乱或丢弃。",
    "Mark behind the tags that stay": "固定标签后的分隔符",
    "Instead of their number, e.g. |||.": "代替数量来指定，例如 |||。",
    "Dropout of tags": "标签丢弃率",
    "The probability of each tag to be left out.": "每个标签被丢弃的概率。",
    "Dropout of captions": "标注丢弃率",
    "The probability of a whole caption to be empty; 0.05 is common for styles.": "整条标注为空的概率；画风常用 0.05。",
    "Between tags": "标签之间",
    "What parts the tags in a caption.": "标注中分隔标签的符号。",
    "Variants of a caption": "标注的变体数",
    "How many orders of the tags are kept, where tags are shuffled or left out.": "打乱或丢弃标签时，保留多少种标签排列。",
    "Longest caption, tokens": "标注最大词元数",
    "75 is CLIP's own; longer captions are encoded in pieces of 75.": "75 是 CLIP 本身的长度；更长的标注按每段 75 个编码。",
    "Photos in their own shapes": "照片保持各自的形状",
    "Wide and tall photos are trained as such (buckets), with about as many pixels; off: all are cut to squares.": (
        "横幅和竖幅照片按原比例训练（分桶），像素数大致相同；关闭则全部裁成正方形。"
    ),
    "Most shapes": "最多形状数",
    "Each shape is compiled once, which takes time at the start.": "每种形状都要编译一次，开始时会花一些时间。",
    "Enlarge no photo": "不放大照片",
    "Small photos are trained in their own size.": "小照片按原尺寸训练。",
    "Step of sides": "边长步长",
    "Sides are multiples of it; empty: as the model asks.": "边长是它的倍数；留空则按模型要求。",
    "Shortest side": "最短边",
    "Pixels; empty: a quarter of the size.": "像素；留空则为尺寸的四分之一。",
    "Longest side": "最长边",
    "Pixels; empty: twice the size.": "像素；留空则为尺寸的两倍。",
    "Place of the crop": "裁剪位置",
    "random: another one every time. center: always the middle.": "random：每次不同。center：始终居中。",
    "Masks count": "使用掩码",
    "What a mask leaves black hardly counts in the loss. On by itself when a photo has a mask.": (
        "掩码中黑色的部分在损失中几乎不计。只要有照片带掩码就会自动开启。"
    ),
    "Weight of what is masked out": "被遮住部分的权重",
    "White is 1; 0.1 is common, and 0 can let the background go wild.": "白色为 1；常用 0.1，0 可能使背景失控。",
    "A small subject counts as much": "小主体同等计数",
    "Divides the loss by the mean of the mask.": "将损失除以掩码的平均值。",
    "Keep what is masked out": "保持被遮住的部分",
    "Holds it where the model without LoRA has it, with this weight: needs a second pass; not with text encoders.": (
        "以此权重使其保持在无 LoRA 模型的结果上：需要多一次前向计算；不能与训练文本编码器同用。"
    ),
    "Less memory, more time": "省内存，更耗时",
    "The backward pass computes blocks once more.": "反向传播时重新计算各模块。",
    "Attention": "注意力",
    "flash-attention is Ascend 910B's fused one; vanilla runs everywhere.": (
        "flash-attention 是 Ascend 910B 的融合算子；vanilla 到处都能运行。"
    ),
    "Threads that read photos": "读取照片的线程数",
    "More read faster where the disk is slow.": "磁盘较慢时，线程越多读取越快。",
    "Shuffle the photos": "打乱照片",
    "They come in another order in every epoch.": "每一轮的顺序都不同。",
}

LEARNING = {
    "AdamW is the usual one. Prodigy finds its step size by itself at the rate 1. Adafactor needs less memory. Lion wants a "
    "third to a tenth of AdamW's rate. Choosing one sets the rate that it expects.": (
        "AdamW 最常用。Prodigy 在学习率为 1 时自行确定步长。Adafactor 更省内存。Lion 需要 AdamW 学习率的三分之一到十分之一。"
        "选择后会设置相应的学习率。"
    ),
    "Weight decay": "权重衰减",
    "How strongly the LoRA's numbers are drawn to 0 at every update; 0.01 is common, 0 is none.": (
        "每次更新时 LoRA 的数值被拉向 0 的程度；常用 0.01，0 表示没有。"
    ),
    "beta1": "beta1",
    "How slowly the mean of the gradients changes, below 1.": "梯度均值变化的缓慢程度，小于 1。",
    "beta2": "beta2",
    "How slowly the mean of the squared gradients changes, below 1.": "梯度平方均值变化的缓慢程度，小于 1。",
    "eps": "eps",
    "Added to the denominator of the step, against division by 0.": "加在步长的分母上，防止除以 0。",
    "Bias correction": "偏差修正",
    "Corrects the means of the first updates, as Adam does; recipes for Prodigy turn it on.": (
        "像 Adam 那样修正最初几次更新的均值；Prodigy 的配方一般开启。"
    ),
    "Safeguard for a warm-up": "预热保护",
    "Keeps a small rate at the start from spoiling Prodigy's estimate; wanted with a warm-up.": (
        "防止开始时较小的学习率影响 Prodigy 的估计；有预热时需要。"
    ),
    "Weight decay beside the gradient": "与梯度分离的权重衰减",
    "As AdamW does it; off: the decay is a part of the gradient.": "与 AdamW 相同；关闭则衰减是梯度的一部分。",
    "First step size d0": "初始步长 d0",
    "Prodigy's estimate at the start; 1e-6 is common.": "Prodigy 开始时的估计；常用 1e-6。",
    "Factor of the step size": "步长系数",
    "Prodigy's estimate times this: 0.5 is more careful, 2 bolder.": "Prodigy 的估计乘以此值：0.5 更谨慎，2 更大胆。",
    "Largest growth of the step size": "步长最大增长",
    "Prodigy's estimate grows at most by this factor in an update; empty: as fast as it will.": (
        "Prodigy 的估计每次更新最多增长到这么多倍；留空则不限。"
    ),
    "beta3": "beta3",
    "How slowly the sums change that Prodigy's estimate is made of; empty: the root of beta2.": (
        "构成 Prodigy 估计的累加量变化的缓慢程度；留空则为 beta2 的平方根。"
    ),
    "Relative step": "相对步长",
    "Adafactor makes its own rate; then learning rate and schedule must be empty.": (
        "Adafactor 自行确定学习率；此时学习率和调度必须为空。"
    ),
    "Rate by the size of the weights": "按权重大小缩放学习率",
    "A matrix's rate is times its root mean square; recipes for SDXL turn it off.": (
        "每个矩阵的学习率乘以其均方根；SDXL 的配方一般关闭。"
    ),
    "Warm-up of the relative step": "相对步长预热",
    "Adafactor's own rate begins near 0.": "Adafactor 自己的学习率从接近 0 开始。",
    "Largest update": "最大更新",
    "Adafactor's updates have at most this root mean square.": "Adafactor 更新量的均方根上限。",
    "Schedule": "调度",
    "How the learning rate changes after the warm-up: it stays, falls along a line, a cosine, cosines, or a power.": (
        "预热之后学习率如何变化：保持不变，或按直线、余弦、多次余弦、幂函数下降。"
    ),
    "Warm-up, updates": "预热更新次数",
    "Over so many updates the rate rises from 0.": "在这么多次更新中学习率从 0 升起。",
    "Warm-up, share of the run": "预热占比",
    "The warm-up as a share of all updates, e.g. 0.05; give this or the number of updates.": (
        "预热占全部更新的比例，例如 0.05；与更新次数二选一。"
    ),
    "Rate at the end": "最终学习率",
    "What is left of the learning rate after the last update; 0.1 is a tenth.": "最后一次更新后剩余的学习率比例；0.1 即十分之一。",
    "Cosines": "余弦次数",
    "How often the rate falls and begins anew.": "学习率下降并重新开始的次数。",
    "Power": "幂次",
    "1 falls along a line, 2 faster at the start.": "1 为直线下降，2 在开始时下降更快。",
    "Learning rate of the UNet": "UNet 的学习率",
    "Where it is not the learning rate of all; 0 trains the text encoders alone.": (
        "与统一学习率不同时填写；0 表示只训练文本编码器。"
    ),
    "LoRA+ ratio": "LoRA+ 比率",
    "The rate of every B matrix over that of its A; 1 is plain LoRA, 16 is common. Not with Prodigy.": (
        "每个 B 矩阵与 A 矩阵学习率之比；1 为普通 LoRA，常用 16。不能与 Prodigy 同用。"
    ),
    "Largest norm of a layer's change": "每层改变量的最大范数",
    "After an update no layer's change is longer than this; 1 is common, empty: any.": (
        "更新后任何一层的改变量都不超过此范数；常用 1，留空则不限。"
    ),
    "Moving average (EMA)": "滑动平均（EMA）",
    "A moving average of the weights is saved instead of them, with this decay; 0.999 is common, empty: none.": (
        "以此衰减系数保存权重的滑动平均来代替权重本身；常用 0.999，留空则不使用。"
    ),
    "Weighting of the noise levels": "噪声级别的加权",
    "Eps: all levels alike. MinSNR: levels of little noise count less, which often learns faster. Debiased is similar.": (
        "Eps：所有级别相同。MinSNR：低噪声级别权重较小，通常学得更快。Debiased 与之类似。"
    ),
    "Min-SNR gamma": "Min-SNR gamma",
    "5 is common; a smaller number weakens the levels of little noise more.": "常用 5；数值越小，低噪声级别的权重越低。",
    "EDM sigma_data": "EDM sigma_data",
    "The spread of the data in EDM's weighting.": "EDM 加权中数据的离散程度。",
    "Loss": "损失",
    "l2 is the usual squared error; huber and smooth_l1 forgive single large errors.": (
        "l2 为常用的平方误差；huber 和 smooth_l1 对个别大误差更宽容。"
    ),
    "Huber threshold": "Huber 阈值",
    "The error from which on it grows along a line.": "误差超过此值后按直线增长。",
    "Huber schedule": "Huber 调度",
    "How the threshold depends on the noise level.": "阈值如何随噪声级别变化。",
    "Noise offset": "噪声偏移",
    "Helps with very dark and very bright pictures: one more number of noise a channel; 0.0357 is common, 0 is none.": (
        "有助于很暗或很亮的画面：每个通道再加一个噪声值；常用 0.0357，0 表示没有。"
    ),
    "Multi-resolution noise, layers": "多分辨率噪声层数",
    "So many layers of ever coarser noise are added; 6 is common, 0 is none.": "加入这么多层越来越粗的噪声；常用 6，0 表示没有。",
    "Multi-resolution noise, discount": "多分辨率噪声折扣",
    "The factor from each layer to the next.": "每一层到下一层的系数。",
    "Input perturbation": "输入扰动",
    "The network sees so much more noise than it is asked for; 0.1 is common, 0 is none.": (
        "网络看到的噪声比要求它预测的多出这么多；常用 0.1，0 表示没有。"
    ),
    "First noise level": "最低噪声级别",
    "0 is nearly no noise. A higher number leaves fine detail alone.": "0 几乎没有噪声。数值更高则不改动细节。",
    "Last noise level": "最高噪声级别",
    "1000 is noise alone; the level itself is not drawn. A lower number leaves the layout alone.": (
        "1000 为纯噪声；该级别本身不会被抽到。数值更低则不改动构图。"
    ),
}

CHINESE: dict[str, str] = {**TOPICS, **FLAGS, **SUBJECT, **LEARNING}
