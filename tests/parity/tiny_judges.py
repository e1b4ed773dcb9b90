"""Folders of tiny random judges, as `transformers` writes them: its classes and tokenizers, few weights."""

from pathlib import Path

import numpy as np
import torch
import transformers as tf
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.parity.peer_parts import randomize

TEXT = "a photo of red blue apple dog cat table yes no is there the left right ? . depicts two"
CHAT = (
    "{% for m in messages %}USER: {% for c in m.content %}{% if c.type == 'image' %}<image>\n"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def picture(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    """Return a picture with shapes and noise."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 90, (height, width, 3))
    pixels[height // 4 : height // 2, width // 5 : width // 2] = (220, 40 + 20 * seed, 30)
    pixels[height // 2 :, 2 * width // 3 :] = (30, 60, 200)
    return Image.fromarray(pixels.astype(np.uint8))


def bert_tokenizer(extra: tuple[str, ...] = ()) -> tf.BertTokenizer:
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *TEXT.split(), *extra]
    return tf.BertTokenizer(vocab={word: index for index, word in enumerate(vocab)})


def clip_tokenizer() -> tf.CLIPTokenizer:
    alphabet = sorted({*pre_tokenizers.ByteLevel.alphabet()})
    letters = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    # OWLv2 takes a row that begins with token 0 for an empty one, so the begin of a text is not the first
    vocab = {token: index for index, token in enumerate(["!", *[x for x in letters if x != "!"]])}
    for token in ("<|startoftext|>", "<|endoftext|>"):
        vocab[token] = len(vocab)
    return tf.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=64)


def blip(folder: Path) -> Path:
    tokenizer = bert_tokenizer()
    begin = len(tokenizer)  # [DEC], then [ENC], which the tokenizer does not know, as in the released one
    text = {
        "vocab_size": begin + 2,
        "hidden_size": 32,
        "encoder_hidden_size": 32,
        "intermediate_size": 48,
        "projection_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "bos_token_id": begin,
        "pad_token_id": tokenizer.pad_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 16,
    }
    model = randomize(tf.BlipForQuestionAnswering(tf.BlipConfig(text_config=text, vision_config=vision)), 41)
    images = tf.BlipImageProcessorPil(size={"height": 32, "width": 32})
    return _write(folder, model, images, tokenizer)


def clip(folder: Path) -> Path:
    tokenizer = clip_tokenizer()
    model = randomize(tf.CLIPModel(tf.CLIPConfig(**_clip_sizes(tokenizer))), 42)
    images = tf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return _write(folder, model, images, tokenizer)


def owl(folder: Path) -> Path:
    tokenizer = clip_tokenizer()
    sizes = _clip_sizes(tokenizer)
    sizes["vision_config"]["image_size"] = 48
    sizes["projection_dim"] = sizes["text_config"]["hidden_size"]
    model = randomize(tf.Owlv2ForObjectDetection(tf.Owlv2Config(**sizes)), 43)
    images = tf.Owlv2ImageProcessorPil(size={"height": 48, "width": 48})
    return _write(folder, model, images, tokenizer)


def dino(folder: Path) -> Path:
    tokenizer = bert_tokenizer()
    backbone = tf.SwinConfig(
        image_size=64,
        patch_size=4,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 2],
        window_size=4,
        out_indices=[2, 3, 4],
    )
    text = tf.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    config = tf.GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        d_model=32,
        num_queries=12,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        disable_custom_kernels=True,
    )
    model = randomize(tf.GroundingDinoForObjectDetection(config), 44)
    images = tf.GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96})
    return _write(folder, model, images, tokenizer)


def depth(folder: Path, kind: str = "relative") -> Path:
    backbone = tf.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=42,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = tf.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        head_hidden_size=4,
        depth_estimation_type=kind,
        max_depth=10,
    )
    model = randomize(tf.DepthAnythingForDepthEstimation(config), 45)
    with torch.no_grad():
        model.head.conv3.bias.fill_(2.0)  # above the last ReLU, so that depth is not flat
    images = tf.DPTImageProcessorPil(
        size={"height": 42, "width": 42}, keep_aspect_ratio=True, ensure_multiple_of=14
    )
    return _write(folder, model, images, None)


def hybrid(folder: Path) -> Path:
    """Return DPT with convolutions before its transformer, as MiDaS's DPT-hybrid has them."""
    backbone = tf.BitConfig(
        global_padding="same",
        layer_type="bottleneck",
        depths=[1, 1, 1],
        hidden_sizes=[8, 16, 32],
        embedding_size=8,
        num_groups=2,
        out_features=["stage1", "stage2", "stage3"],
        embedding_dynamic_padding=True,
    )
    config = tf.DPTConfig(
        is_hybrid=True,
        backbone_config=backbone,
        backbone_featmap_shape=[1, 32, 2, 2],
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=16,
        neck_hidden_sizes=[8, 16, 16, 16],
        neck_ignore_stages=[0, 1],
        backbone_out_indices=[0, 1, 2, 3],
        fusion_hidden_size=8,
        readout_type="project",
    )
    model = randomize(tf.DPTForDepthEstimation(config), 46)
    return _write(folder, model, tf.DPTImageProcessorPil(size={"height": 32, "width": 32}), None)


def llava(folder: Path) -> Path:
    tokenizer = _chat_tokenizer()
    vision = tf.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
    )
    text = tf.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = tf.LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    model = randomize(tf.LlavaForConditionalGeneration(config), 47)
    processor = tf.LlavaProcessor(
        tf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _chat_tokenizer() -> tf.PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    corpus = ["yes no Yes No", " yes no Yes No", TEXT, "Does this figure show 'a red apple'?"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<pad>", "<s>", "</s>", "<image>"],
        show_progress=False,
    )
    made.train_from_iterator(corpus, trainer)
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def _clip_sizes(tokenizer) -> dict:
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    return {"text_config": text, "vision_config": vision, "projection_dim": 24}


def _write(folder: Path, model, images, tokenizer) -> Path:
    model.save_pretrained(folder)
    images.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder
