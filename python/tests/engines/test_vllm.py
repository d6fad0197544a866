"""Updates of a running vLLM on the CPU: while it generates, through the plan, proved, and equal to a fresh engine.

The stock engine repacks weights for some CPUs, and always repacks experts. The tests of updates switch that off, alike
in the updated and in the fresh engine; another test shows that the stock engine is refused.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engines import models
import pulse_codec as pulse
from pulse_codec.transformers import checkpoint

os.environ.update(
    HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS="1",
    TORCHDYNAMO_DISABLE="1",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_LOGGING_LEVEL="ERROR",
    VLLM_NO_USAGE_STATS="1",
    VLLM_WORKER_MULTIPROCESSING_METHOD="fork",
)

from vllm import LLM, RequestOutput, SamplingParams  # noqa: E402
from vllm.config.weight_transfer import WeightTransferConfig  # noqa: E402
from vllm.distributed.weight_transfer.base import (  # noqa: E402
    WeightTransferInitRequest,
    WeightTransferUpdateRequest,
)
from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: E402
from vllm.inputs import TokensPrompt  # noqa: E402
from vllm.v1.engine.async_llm import AsyncLLM  # noqa: E402

UPDATES = int(os.environ.get("PULSE_TEST_UPDATES", 20))
#: With several workers an engine takes long to start: it is compared with a fresh one at every so many steps.
FRESH_EVERY = int(os.environ.get("PULSE_TEST_FRESH_EVERY", 1))
VOCABULARY = models.SMALL["vocab_size"]

UNPACKED = '''
def plain():
    import vllm._custom_ops
    import vllm.model_executor.layers.fused_moe.experts.cpu_moe as cpu_moe
    import vllm.model_executor.layers.utils as utils

    vllm._custom_ops._supports_onednn = False
    utils.check_cpu_sgl_kernel = lambda n, k, dtype: False
    cpu_moe.cpu_prepack_moe_weight = lambda weight, isa: weight
'''


@pytest.fixture
def unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switches the packing of weights off in every process of vLLM, by a plugin."""
    site = tmp_path / "site"
    (site / "unpacked-0.dist-info").mkdir(parents=True)
    (site / "unpacked.py").write_text(UNPACKED)
    (site / "unpacked-0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: unpacked\nVersion: 0\n")
    (site / "unpacked-0.dist-info" / "entry_points.txt").write_text(
        "[vllm.general_plugins]\nunpacked = unpacked:plain\n"
    )
    path = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.syspath_prepend(str(site))


def arguments(path: Path, tp: int) -> dict[str, Any]:
    return dict(
        model=str(path),
        skip_tokenizer_init=True,
        dtype="bfloat16",
        max_model_len=128,
        max_num_seqs=8,
        seed=0,
        tensor_parallel_size=tp,
        enforce_eager=True,
        # Fresh engines in one process leave theirs behind.
        kv_cache_memory_bytes=32 << 20,
    )


@asynccontextmanager
async def engine(path: Path, tp: int) -> AsyncIterator[AsyncLLM]:
    """An engine that serves the checkpoint in ``path``, and takes updates."""
    transfer = WeightTransferConfig(backend="pulse")
    running = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments(path, tp), weight_transfer_config=transfer))
    try:
        yield running
    finally:
        running.shutdown()


class Steps:
    """A training run: the checkpoint of every step, and the patch that leads to it."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.folder = folder
        model = models.tiny(kind)
        model.save_pretrained(self.path(0))
        self.weights = {name: tensor.clone() for name, tensor in checkpoint(model).items()}
        self.step = 0

    def path(self, step: int) -> Path:
        return self.folder / f"step_{step}"

    def next(self) -> Path:
        target = models.nudge(self.weights, seed=self.step)
        self.step += 1
        patch = self.folder / f"{self.step}.pulse"
        pulse.diff(self.weights, target, step=self.step, base_step=self.step - 1, out=patch)
        self.path(self.step).mkdir()
        save_file(target, self.path(self.step) / "model.safetensors", metadata={"format": "pt"})
        for file in self.path(0).glob("*.json"):
            (self.path(self.step) / file.name).write_bytes(file.read_bytes())
        self.weights = target
        return patch


def prompt(seed: int) -> list[int]:
    chosen = random.Random(seed)
    return [chosen.randrange(3, VOCABULARY) for _ in range(24)]


PARAMETERS = SamplingParams(temperature=0, max_tokens=8, logprobs=20, ignore_eos=True, detokenize=False)


def said(output: RequestOutput) -> list[tuple[int, dict[int, float]]]:
    """The tokens of a completion, and at each of them the logarithms of the highest probabilities."""
    completion = output.outputs[0]
    assert completion.logprobs is not None
    return [
        (token, {choice: value.logprob for choice, value in position.items()})
        for token, position in zip(completion.token_ids, completion.logprobs, strict=True)
    ]


def fresh(path: Path, tp: int) -> list[Any]:
    """What an engine that has just loaded ``path`` says. It is in this process, which is quick to start."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        running = LLM(**arguments(path, tp), distributed_executor_backend="uni" if tp == 1 else "mp")
    try:
        return [
            said(running.generate([TokensPrompt(prompt_token_ids=prompt(seed))], PARAMETERS, use_tqdm=False)[0])
            for seed in range(3)
        ]
    finally:
        running.llm_engine.engine_core.shutdown()
        del running
        gc.collect()


async def probe(running: AsyncLLM, names: itertools.count[int]) -> list[Any]:
    """What the model says to each prompt, one at a time: what else is in a batch changes the last bits of a number."""
    answers = []
    for seed in range(3):
        last = None
        tokens = TokensPrompt(prompt_token_ids=prompt(seed))
        async for output in running.generate(tokens, PARAMETERS, f"probe-{next(names)}"):
            last = output
        assert last is not None
        answers.append(said(last))
    return answers


class Traffic:
    """Requests that never end, except while the model is probed."""

    def __init__(self, running: AsyncLLM) -> None:
        self.running = running
        self.tokens = 0
        self.open = asyncio.Event()
        self.idle = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def _generate(self) -> None:
        for number in itertools.count():
            if not self.open.is_set():
                self.idle.set()
                await self.open.wait()
            parameters = SamplingParams(temperature=1, max_tokens=48, ignore_eos=True, detokenize=False, seed=number)
            request = self.running.generate(
                TokensPrompt(prompt_token_ids=prompt(1000 + number)), parameters, f"traffic-{number}"
            )
            seen = 0
            async for output in request:
                self.tokens += len(output.outputs[0].token_ids) - seen
                seen = len(output.outputs[0].token_ids)

    def start(self) -> None:
        self.open.set()
        self.task = asyncio.create_task(self._generate())

    async def stop(self) -> None:
        self.idle.clear()
        self.open.clear()
        await self.idle.wait()

    async def more(self, tokens: int) -> None:
        """Waits until so many more tokens have come."""
        wanted = self.tokens + tokens
        while self.tokens < wanted:
            assert self.task is not None
            if self.task.done():
                self.task.result()
            await asyncio.sleep(0.002)


async def init(running: AsyncLLM, weights: Path) -> None:
    await running.init_weight_transfer_engine(WeightTransferInitRequest({"weights": str(weights)}))


async def update(running: AsyncLLM, **info: Any) -> None:
    await running.update_weights(WeightTransferUpdateRequest(info))


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("kind", ["dense", "tied", "moe"])
def test_updates_while_it_generates(kind: str, tp: int, tmp_path: Path, unpacked: None) -> None:
    steps = Steps(kind, tmp_path)
    names = itertools.count()

    async def updated() -> tuple[list[Any], list[float], list[float]]:
        async with engine(steps.path(0), tp) as running:
            await init(running, steps.path(0))
            answers = [await probe(running, names)]
            traffic = Traffic(running)
            traffic.start()
            pauses, writes = [], []
            for _ in range(UPDATES):
                await traffic.more(4)
                patch = steps.next()
                await running.start_weight_update()
                await update(running, patch=str(patch), background=True)
                await traffic.more(4)
                await update(running)
                began = time.perf_counter()
                await running.pause_generation(mode="keep")
                wrote = time.perf_counter()
                await running.finish_weight_update()
                writes.append(time.perf_counter() - wrote)
                await running.resume_generation()
                pauses.append(time.perf_counter() - began)
                # The request that was interrupted goes on.
                await traffic.more(4)
                await traffic.stop()
                answers.append(await probe(running, names))
                traffic.open.set()
            assert traffic.task is not None
            traffic.task.cancel()
        return answers, pauses, writes

    answers, pauses, writes = asyncio.run(updated())
    changed = sum(a != b for a, b in itertools.pairwise(answers))
    assert changed == UPDATES, "every update changes what the model says"

    compared = [step for step in range(UPDATES + 1) if tp == 1 or step % FRESH_EVERY == 0]
    for step in compared:
        assert fresh(steps.path(step), tp) == answers[step], f"step {step}"
    elements = sum(tensor.numel() for tensor in steps.weights.values())

    def middle(seconds: list[float]) -> str:
        ordered = sorted(seconds)
        return f"{ordered[len(ordered) // 2] * 1e3:.1f} ms (at most {ordered[-1] * 1e3:.1f} ms)"

    print(
        f"\n{kind}, TP {tp}: {UPDATES} updates of {elements:,} elements, equal to {len(compared)} fresh engines;"
        f" paused {middle(pauses)}, of which written and proved {middle(writes)}"
    )


async def refused(running: AsyncLLM, what: str, call: Any) -> None:
    """The call fails in every worker, and says why."""
    with pytest.raises(Exception, match=what):
        await call


@pytest.mark.parametrize("tp", [1, 2])
def test_what_is_refused_changes_nothing(tp: int, tmp_path: Path, unpacked: None) -> None:
    steps = Steps("dense", tmp_path)
    first = steps.next()
    second = steps.next()
    names = itertools.count()
    # A checkpoint that lacks a part of a fused parameter: what is sent by halves.
    half = tmp_path / "half"
    half.mkdir()
    whole = load_file(steps.path(0) / "model.safetensors")
    del whole["model.layers.1.self_attn.k_proj.weight"]
    save_file(whole, half / "model.safetensors")
    damaged = tmp_path / "damaged.pulse"
    damaged.write_bytes(first.read_bytes()[:-9] + b"damaged!!")

    async def run() -> None:
        async with engine(steps.path(0), tp) as running:
            before = await probe(running, names)
            await refused(running, "qkv_proj.*(open|all of its tensors)", init(running, half))
            await refused(running, "does not hold the weights", init(running, steps.path(1)))
            await init(running, steps.path(0))
            for patch, why in [(second, "base|Base"), (damaged, ""), (tmp_path / "none.pulse", "No such file")]:
                await running.start_weight_update()
                await refused(running, why, update(running, patch=str(patch)))
                await refused(running, "finish_weight_update", running.finish_weight_update())
                assert await probe(running, names) == before
            # It is as usable as before.
            await running.start_weight_update()
            await update(running, patch=str(first))
            await running.pause_generation(mode="keep")
            await running.finish_weight_update()
            await running.resume_generation()
            assert await probe(running, names) != before

    asyncio.run(run())


def test_a_stock_engine_that_repacks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
    steps = Steps("moe", tmp_path)

    async def run() -> None:
        async with engine(steps.path(0), 1) as running:
            await refused(running, "repacks|form of its own|beside", init(running, steps.path(0)))

    asyncio.run(run())
