"""Tiny models with random weights, as a trainer would hold them: nothing is downloaded."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config, Qwen3MoeConfig

SMALL = dict(
    # Engines pad it.
    vocab_size=300,
    hidden_size=128,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    bos_token_id=1,
    eos_token_id=2,
)

CONFIGS = {
    # Fused q, k, v with biases; fused gate and up; a vocabulary that is padded.
    "dense": lambda: Qwen2Config(**SMALL, tie_word_embeddings=False),
    # One matrix is both embedding and head.
    "tied": lambda: LlamaConfig(**SMALL, tie_word_embeddings=True, head_dim=32),
    # Experts, which engines stack.
    "moe": lambda: Qwen3MoeConfig(
        **SMALL,
        tie_word_embeddings=False,
        head_dim=32,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        decoder_sparse_step=1,
        norm_topk_prob=True,
        mlp_only_layers=[],
    ),
}


def tiny(kind: str, seed: int = 0) -> PreTrainedModel:
    """A model with random weights in BF16."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[kind](), dtype=torch.bfloat16)
    return model.eval()


def nudge(weights: dict[str, torch.Tensor], seed: int, density: float = 0.01) -> dict[str, torch.Tensor]:
    """New weights, some of which are the next number up or down: what a step of training leaves in BF16."""
    random = torch.Generator().manual_seed(seed)
    moved = {}
    for name, tensor in weights.items():
        bits = tensor.view(torch.int16)
        step = torch.randint(0, 2, bits.shape, generator=random, dtype=torch.int16) * 2 - 1
        changes = torch.rand(bits.shape, generator=random) < density
        changes.view(-1)[torch.randint(0, bits.numel(), (1,), generator=random)] = True
        # Not across zero, where the next number is far away as an integer.
        changes &= (bits & 0x7FFF) > 1
        moved[name] = torch.where(changes, bits + step, bits).view(tensor.dtype)
    return moved
