"""Trains a small model of transformers, and keeps a vLLM engine on the CPU up to date while it generates.

    python vllm_live.py FOLDER --steps 5

After each update the engine says what an engine says that has just loaded the trainer's checkpoint: at the end, this is
shown. See python/test-vllm for what to install.
On CPUs for which vLLM packs weights (those with AMX) the engine is refused: an update in place cannot reach the packed
copies.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

os.environ.update(
    OMP_NUM_THREADS="1",
    TORCHDYNAMO_DISABLE="1",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_LOGGING_LEVEL="ERROR",
)

import torch
from transformers import AutoModelForCausalLM, Qwen2Config
from vllm import LLM, SamplingParams
from vllm.config.weight_transfer import WeightTransferConfig
from vllm.inputs import TokensPrompt

import pulse_codec as pulse
from pulse_codec.host import HostCopy
from pulse_codec.transformers import checkpoint

PROMPT = TokensPrompt(prompt_token_ids=list(range(3, 20)))


def engine(path: Path) -> LLM:
    return LLM(
        model=str(path),
        skip_tokenizer_init=True,
        dtype="bfloat16",
        max_model_len=128,
        enforce_eager=True,
        distributed_executor_backend="uni",
        weight_transfer_config=WeightTransferConfig(backend="pulse"),
    )


def says(llm: LLM) -> list[int]:
    parameters = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, detokenize=False)
    return list(llm.generate([PROMPT], parameters, use_tqdm=False)[0].outputs[0].token_ids)


def save(model: Any, path: Path) -> None:
    """Saves what is served: the weights in BF16."""
    served = AutoModelForCausalLM.from_config(model.config, dtype=torch.bfloat16)
    served.load_state_dict(model.state_dict())
    served.save_pretrained(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True)

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    feed = str(folder / "feed")
    publisher, host = pulse.Publisher(feed), HostCopy(dtype=torch.bfloat16)
    publisher.publish(host.take(checkpoint(model).items()), step=0)
    save(model, folder / "step_0")

    llm = engine(folder / "step_0")
    llm.init_weight_transfer_engine({"init_info": {"weights": str(folder / "step_0"), "feed": feed}})
    print(f"step 0: {says(llm)}", flush=True)
    for step in range(1, arguments.steps + 1):
        tokens = (torch.arange(32) * step + torch.arange(8)[:, None]) % 256
        loss = model(input_ids=tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        published = publisher.publish(host.take(checkpoint(model).items()), step=step)

        llm.start_weight_update()
        llm.update_weights({"update_info": {"version": published.version, "background": True}})
        says(llm)  # the engine generates while the version is fetched and proved
        llm.update_weights({"update_info": {}})
        began = time.perf_counter()
        llm.finish_weight_update(weight_version=str(step))
        llm.reset_prefix_cache()
        paused = (time.perf_counter() - began) * 1e3
        print(f"step {step}: {published.bytes:,} bytes, paused {paused:.1f} ms: {says(llm)}", flush=True)
    last = says(llm)
    llm.llm_engine.engine_core.shutdown()

    save(model, folder / "last")
    assert says(engine(folder / "last")) == last
    print("the same as of a fresh engine", flush=True)


if __name__ == "__main__":
    main()
