"""How programs spell the names inside adapter files; data only, read by `danqing.weights.adapters`.

A name is a prefix, a layer and a factor. Layers are those of the released checkpoints, with dots or, behind
a flat prefix, with underscores.
"""

# diffusers; PEFT; ComfyUI, ai-toolkit; whole ComfyUI checkpoints; DiffSynth and older trainers
PREFIXES = ("transformer.", "base_model.model.", "diffusion_model.", "model.", "pipe.dit.", "dit.", "unet.")

# kohya and its descendants; SimpleTuner; OneTrainer
FLAT_PREFIXES = ("lora_unet_", "lycoris_", "lora_transformer_")

# The text encoder's share of an adapter, which drawing with Qwen-Image leaves alone.
TEXT_ENCODER_PREFIXES = (
    "text_encoder.",
    "text_encoders.",
    "text_encoder_2.",
    "lora_te_",
    "lora_te1_",
    "lora_te2_",
    "lycoris_te_",
    "te.",
    "conditioner.",
)

# Two layers that ComfyUI keeps as one, the first one's rows first.
FUSED = {"img_mlp.gate_up": ("img_mlp.gate_layer", "img_mlp.proj")}

# End of a name → what the tensor is.
FACTORS = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_A": "down",
    "lora_B": "up",
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "lora_linear_layer.down.weight": "down",
    "lora_linear_layer.up.weight": "up",
    "lora_B.bias": "up_bias",
    "alpha": "alpha",
    "diff": "diff",
    "diff_b": "bias",
    "lokr_w1": "w1",
    "lokr_w1_a": "w1_a",
    "lokr_w1_b": "w1_b",
    "lokr_w2": "w2",
    "lokr_w2_a": "w2_a",
    "lokr_w2_b": "w2_b",
    "lokr_t2": "t2",
    "hada_w1_a": "h1_a",
    "hada_w1_b": "h1_b",
    "hada_w2_a": "h2_a",
    "hada_w2_b": "h2_b",
}

# PEFT writes the name of its adapter behind these parts: lora_A.default.weight, lokr_w1.default.
NAMED_PARTS = ("lora_A", "lora_B", "lora_magnitude_vector", "lokr_", "hada_")

# Part of a name → a method that changes weights in another way.
OTHER_METHODS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "lora_mid": "a LoCon of convolutions",
    "hada_t1": "a LoHa of convolutions",
    "lokr_t1": "a LoKr of convolutions",
    "oft_blocks": "OFT",
    "oft_diag": "OFT",
    "oft_R": "OFT",
    "boft_R": "BOFT",
    "on_input": "IA3",
    "ia3_l": "IA3",
    "vera_lambda_d": "VeRA",
    "a1.weight": "GLoRA",
}

# What each dialect that we write calls a layer's factors; {flat} is the layer with underscores.
WRITTEN = {
    "diffusers": {"layer": "transformer.{layer}", "down": "lora_A.weight", "up": "lora_B.weight"},
    "comfyui": {"layer": "diffusion_model.{layer}", "down": "lora_down.weight", "up": "lora_up.weight"},
    "kohya": {"layer": "lora_unet_{flat}", "down": "lora_down.weight", "up": "lora_up.weight"},
}
