"""The words of the part photos, and of the brush."""

CHINESE: dict[str, str] = {
    # the brush
    "Paint": "涂抹",
    "Erase": "擦除",
    "Brush size": "笔刷大小",
    "Undo": "撤销",
    "Clear": "清除",
    "Invert": "反转",
    "With the keyboard: arrows move, the space bar paints, [ and ] change the size, E switches to the eraser": (
        "键盘操作：方向键移动，空格键涂抹，[ 和 ] 调整大小，E 切换橡皮擦"
    ),
    "the painted mask could not be read: paint it again": "无法读取所涂的掩码：请重新涂抹",
    # adding photos
    "Add 5 to 20 photos of one person, animal, thing or style: sharp, from several sides, in several places, with nothing else in common": (
        "请添加 5 到 20 张同一人物、动物、物品或风格的照片：清晰、角度不同、场景不同，除主体外没有其他共同点"
    ),
    "Add photos": "添加照片",
    "Photos, with captions (NAME.txt) and masks (NAME-masklabel.png) if there are any": (
        "照片，可附带描述文件（照片名.txt）和掩码（照片名-masklabel.png）"
    ),
    "At most {photos} photos, each of at most {size} MB": "最多 {photos} 张照片，每张不超过 {size} MB",
    "Or from a folder of this machine": "或从本机的文件夹中选取",
    "choose, or type a path": "选择，或输入路径",
    "In {roots}; --folders FOLDER after the page's command allows more": (
        "限于 {roots}；在启动命令后加 --folders 文件夹 可允许更多文件夹"
    ),
    "Copy its photos": "复制其中的照片",
    "Five drawn photos of a dog": "五张绘制的小狗照片",
    "To try everything with, quickly": "用来快速试用全部功能",
    "looking at the photos": "正在查看照片",
    "{photos} photos, {besides} captions and masks added": "已添加 {photos} 张照片、{besides} 个描述和掩码",
    "and {n} more files were refused": "另有 {n} 个文件未被接受",
    "{name} has {size} MB: give files of at most {most} MB": "{name} 有 {size} MB：请提供不超过 {most} MB 的文件",
    "{name} belongs to no photo here: give it together with its photo": "{name} 不属于这里的任何照片：请与其照片一起提供",
    "{name} is here already": "{name} 已在这里",
    "{name}: there are {most} photos already, which is as many as fit": "{name}：已有 {most} 张照片，达到上限",
    "{folder} holds no photos: choose another folder": "{folder} 中没有照片：请选择其他文件夹",
    "{folder} is another visitor's: choose another folder": "{folder} 属于其他访问者：请选择其他文件夹",
    "the photos could not be drawn: {why}": "无法绘制照片：{why}",
    # all photos
    "{n} of {all} photos are trained, as {sizes} pixels": "共 {all} 张照片，其中 {n} 张参与训练，尺寸为 {sizes} 像素",
    "The red frame is what is trained; it is drawn anew each time, from one orange frame to the other. What is dark is masked out": (
        "红框是参与训练的部分；每次在两个橙框之间重新随机选取。变暗的部分被掩码排除"
    ),
    "The red frame is what is trained. What is dark is masked out": "红框是参与训练的部分。变暗的部分被掩码排除",
    "There are fewer than {few} photos: with so few only these are learned by heart": (
        "照片少于 {few} 张：这么少的照片只会被死记硬背"
    ),
    "The recipe does not fit yet: {why}": "训练设置尚不可用：{why}",
    "Show photos": "显示照片",
    "× {scale}, {share} cut off": "缩放 {scale} 倍，裁掉 {share}",
    "left out": "已排除",
    "masked": "有掩码",
    "Caption, mask, leave out, delete": "描述、掩码、排除、删除",
    "All photos at once": "批量处理所有照片",
    "A caption": "描述",
    "what every photo shows": "每张照片的内容",
    "For all photos": "用于所有照片",
    "Where there is none": "仅用于没有描述的照片",
    "the caption is empty: type what the photos show": "描述为空：请输入照片的内容",
    "{n} captions written": "已写入 {n} 条描述",
    "Remove all captions": "删除所有描述",
    "The captions of {n} photos are deleted": "将删除 {n} 张照片的描述",
    "Yes, remove them": "是，删除描述",
    "Delete all photos": "删除所有照片",
    "{n} photos with their captions and masks are deleted here; trainings keep theirs": (
        "将从这里删除 {n} 张照片及其描述和掩码；已有训练中的副本保留"
    ),
    "Yes, delete them": "是，全部删除",
    # one photo
    "All photos": "所有照片",
    "Previous": "上一张",
    "Next": "下一张",
    "{width} × {height} pixels, trained as {columns} × {rows}: scaled by {scale}, {share} cut off": (
        "{width} × {height} 像素，训练时为 {columns} × {rows}：缩放 {scale} 倍，裁掉 {share}"
    ),
    "Caption": "描述",
    "what the photo shows": "照片的内容",
    "What is said of this photo instead of the recipe's prompt; empty: the prompt": (
        "代替训练设置中的提示词来描述这张照片；留空则使用该提示词"
    ),
    "Training says: {caption}": "训练时使用：{caption}",
    "Paint over the subject: where nothing is painted counts little in training. Without a mask everything counts": (
        "请涂抹主体：未涂抹的部分在训练中影响很小。没有掩码时全部参与训练"
    ),
    "Mask of {name}": "{name} 的掩码",
    "Remove the mask": "删除掩码",
    "Leave this photo out": "排除这张照片",
    "It stays here, and is not trained": "照片保留在这里，但不参与训练",
    "Delete this photo": "删除这张照片",
    "It is deleted here with its caption and mask; trainings keep theirs": (
        "将从这里删除这张照片及其描述和掩码；已有训练中的副本保留"
    ),
    "Yes, delete it": "是，删除",
    # what may be wrong
    "It cannot be read: {why}": "无法读取：{why}",
    "Cannot be read: {names}": "无法读取：{names}",
    "It would be enlarged {times} times, which training refuses: leave it out, or give a larger one": (
        "需要放大 {times} 倍，训练不接受：请排除它，或换一张更大的照片"
    ),
    "Too small, so that training refuses them: {names}": "太小，训练不接受：{names}",
    "It is small and gets enlarged {times} times: a larger one teaches more": "照片较小，将被放大 {times} 倍：更大的照片效果更好",
    "Small, and enlarged for training: {names}. Larger ones teach more": "较小，训练时会被放大：{names}。更大的照片效果更好",
    "{share} of it is cut off: crop it yourself so that the subject stays, or turn on buckets in the recipe": (
        "有 {share} 被裁掉：请自行裁剪以保留主体，或在训练设置中启用分桶"
    ),
    "Much is cut off: {names}. Crop them yourself so that the subject stays, or turn on buckets in the recipe": (
        "裁掉的部分较多：{names}。请自行裁剪以保留主体，或在训练设置中启用分桶"
    ),
    "Only {share} of what its mask marks is in the crop: crop the photo closer to its subject": (
        "掩码标出的主体只有 {share} 在裁剪范围内：请把照片裁剪得更靠近主体"
    ),
    "The subject that the mask marks may be outside of the crop: {names}. Crop these closer to the subject": (
        "掩码标出的主体可能在裁剪范围之外：{names}。请把这些照片裁剪得更靠近主体"
    ),
    "Its mask cannot be used: {why}": "掩码不可用：{why}",
    "The mask cannot be used: {names}": "掩码不可用：{names}",
    "It is nearly equal to {other}: one of them is enough": "与 {other} 几乎相同：保留一张即可",
    "Nearly equal to another one: {names}. One of each is enough, others teach more": (
        "与另一张几乎相同：{names}。各保留一张即可，换成不同的照片效果更好"
    ),
    "It looks blurred: what is learned will be as well": "看起来模糊：学到的内容也会模糊",
    "Blurred, as it seems: {names}": "看起来模糊：{names}",
    "It is of one colour and shows nothing": "只有一种颜色，没有内容",
    "Of one colour, so that they show nothing: {names}": "只有一种颜色，没有内容：{names}",
    "Its caption cannot be used: {why}": "描述不可用：{why}",
    "The caption cannot be used: {names}": "描述不可用：{names}",
    "Nothing says what it shows: write a caption, or a prompt in the recipe": (
        "没有说明照片内容的文字：请写描述，或在训练设置中填写提示词"
    ),
    "Nothing says what they show: {names}. Write captions, or a prompt in the recipe": (
        "没有说明照片内容的文字：{names}。请写描述，或在训练设置中填写提示词"
    ),
    "It has no caption while others have one: the prompt of the recipe is said of it": (
        "其他照片有描述而它没有：将使用训练设置中的提示词"
    ),
    "Without a caption, while others have one: {names}. The prompt of the recipe is said of these": (
        "其他照片有描述而这些没有：{names}。它们将使用训练设置中的提示词"
    ),
}
