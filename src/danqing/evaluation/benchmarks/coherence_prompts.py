"""Prompts about people and things in plain sight, written for this project: English, Chinese, how many."""

from collections.abc import Mapping
from typing import Final

PEOPLE: Final[tuple[tuple[str, str, int], ...]] = (
    (
        "a studio portrait of a woman with short grey hair, looking at the camera",
        "一位灰白短发女士的影棚肖像，看着镜头",
        1,
    ),
    ("a close-up photo of a smiling boy with freckles", "一个长着雀斑的微笑男孩的特写照片", 1),
    ("a passport photo of a middle-aged man with a beard", "一位留胡子的中年男子的证件照", 1),
    ("a baker in a white cap behind her counter, facing us", "一位戴白帽的面包师站在柜台后，面向我们", 1),
    ("an old fisherman laughing, head and shoulders", "一位大笑的老渔夫，头像到肩", 1),
    ("a girl with braids and round glasses, plain background", "一个梳辫子、戴圆框眼镜的女孩，纯色背景", 1),
    ("a young nurse smiling in a bright corridor, front view", "一位年轻护士在明亮的走廊里微笑，正面", 1),
    ("a photo of a bald man with a serious expression", "一位神情严肃的光头男子的照片", 1),
    ("a mother and her daughter side by side, both looking at the camera", "一对母女并肩而立，都看着镜头", 2),
    (
        "two old friends laughing on a park bench, faces in full view",
        "两位老朋友坐在公园长椅上大笑，脸部清晰可见",
        2,
    ),
    ("a wedding photo of a bride and a groom, head and shoulders", "一张新郎新娘的结婚照，头像到肩", 2),
    ("two football players posing for a photo after the match", "两名足球运动员赛后合影", 2),
    ("twin sisters in yellow raincoats, front view", "一对穿黄色雨衣的双胞胎姐妹，正面", 2),
    ("a grandfather and his grandson smiling at us", "一位祖父和他的孙子向我们微笑", 2),
    ("three students with books, facing the camera", "三名拿着书的学生，面向镜头", 3),
    ("a family of three at a picnic table, all looking at us", "一家三口坐在野餐桌旁，都看着我们", 3),
    ("three cooks in white jackets in a kitchen, front view", "三位穿白色工作服的厨师在厨房里，正面", 3),
    ("three women at a window, smiling", "三位女士在窗边微笑", 3),
    ("a band of four musicians posing in front of a brick wall", "一支四人乐队在砖墙前合影", 4),
    ("four children in a row with painted faces", "四个画了脸彩的孩子站成一排", 4),
    ("a group photo of four office workers", "四名办公室职员的合影", 4),
    ("five hikers on a hilltop, posing for a group photo", "五名徒步者在山顶合影", 5),
    ("a choir of five singers, front view, faces visible", "五人合唱团，正面，脸部可见", 5),
    ("an empty classroom with no people in it", "一间没有人的空教室", 0),
    ("a mountain lake at sunrise without any people", "日出时的高山湖泊，没有人", 0),
    ("a still life with a jug and three lemons", "一幅有水壶和三个柠檬的静物画", 0),
)
"""English, Chinese, and how many faces are in plain sight."""
THINGS: Final[tuple[tuple[str, str, Mapping[str, int]], ...]] = (
    ("a dog sitting on a lawn", "一只狗坐在草坪上", {"dog": 1}),
    ("a bicycle leaning against a white wall", "一辆自行车靠在白墙上", {"bicycle": 1}),
    ("one red apple on a wooden table", "木桌上有一个红苹果", {"apple": 1}),
    ("a teapot on a stove", "炉子上有一把茶壶", {"teapot": 1}),
    ("a single chair in an empty room", "空房间里只有一把椅子", {"chair": 1}),
    ("two cats on a sofa, apart from each other", "沙发上有两只分开坐的猫", {"cat": 2}),
    ("two boats on a calm lake", "平静的湖面上有两条船", {"boat": 2}),
    ("two cups beside each other on a tray", "托盘上并排放着两个杯子", {"cup": 2}),
    ("three bananas laid out in a row", "三根香蕉排成一行", {"banana": 3}),
    ("three horses standing in a field", "三匹马站在田野里", {"horse": 3}),
    ("three umbrellas open on a beach", "沙滩上撑开三把伞", {"umbrella": 3}),
    ("four books standing on a shelf", "架子上立着四本书", {"book": 4}),
    ("a cat and a dog sitting side by side", "一只猫和一只狗并排坐着", {"cat": 1, "dog": 1}),
    ("two sheep and a cow on a meadow", "草地上有两只羊和一头牛", {"sheep": 2, "cow": 1}),
    ("a laptop and two cups on a desk", "书桌上有一台笔记本电脑和两个杯子", {"laptop": 1, "cup": 2}),
    ("a bus behind two parked cars", "两辆停着的汽车后面有一辆公共汽车", {"bus": 1, "car": 2}),
)
"""English, Chinese, and how many of each kind."""
