"""The words around all parts of the page."""

CHINESE = {
    "Pictures": "生成图片",
    "Photos": "照片",
    "Recipe": "配方",
    "Run": "训练",
    "Results": "结果",
    "Part of the studio": "工作室的各个部分",
    "this did not work, and should not have happened: the terminal that the page was started in says more": (
        "操作失败，这本不应发生：启动本页面的终端中有详细信息"
    ),
    "Others can reach this page, so it needs a token: start it with STUDIO_TOKEN=WORDS before the command": (
        "其他人可以访问此页面，因此需要口令：请在启动命令前加上 STUDIO_TOKEN=口令"
    ),
    "Token": "口令",
    "The words of STUDIO_TOKEN, which the page was started with": "启动页面时 STUDIO_TOKEN 的值",
    "Open": "打开",
    "this is not the token that the page was started with": "口令与启动页面时设置的不一致",
    "{path} is outside of the folders of this page: give one in {folders}": "{path} 不在本页面的文件夹内：请使用 {folders} 中的路径",
}
