"""How many tokens per second does one sequence get on a CPU: llama.cpp, Transformers, and moesaic's experts?

    python -m venv LLAMA
    CMAKE_ARGS=-DGGML_NATIVE=ON LLAMA/bin/pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36 gguf==0.19.0
    python -m benchmarks.decoding --llama LLAMA/bin/python

All read one random Mixtral in bfloat16, as safetensors or as GGUF, whose next-token logits are first compared with
Transformers' in float32. Every figure comes from processes of two threads that take turns, forwards and then
backwards through the list; a process reports its median over calls.

Decoding is greedy, after a short prompt. Transformers decodes in ``generate``, timed from its first new token to its
last, so neither the prompt nor the start of the call counts. llama.cpp decodes in its C interface, where a step is
``llama_decode`` and an argmax. Prefill is one call from an empty cache that asks for the last position's logits.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

# torch is imported where it is needed: llama.cpp's processes run in an environment without it.

SIZES = {
    "vocab_size": 4096,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 2048,
}
THREADS = 2
PROMPT_TOKENS, NEW_TOKENS, DECODE_CALLS = 16, 128, 3
PREFILL_TOKENS, PREFILL_CALLS = 128, 15
COMPARED_TOKENS = 128
"""Half of them are read in one call, the others one at a time."""
ALLOWED_DIFFERENCE = 0.05
"""Median difference of logits, in their standard deviations: bfloat16 alone makes up to 0.015, and GGUF
without ``interleave`` 0.19.

Rounding sometimes changes a token's experts, so the highest difference says little.
"""

LLAMA_CPP = "llama.cpp"
REFERENCE = "Transformers, float32"
FAST = "moesaic, experts and fast_decoding"
EXPERTS = {
    "Transformers, grouped_mm": "grouped_mm",
    "Transformers, eager": "eager",
    "moesaic, experts": "moesaic",
    FAST: "moesaic",
}
"""The experts' implementation of each way that runs Transformers' model."""
WAYS = [LLAMA_CPP, *EXPERTS]
TRANSFORMERS = ["Transformers, grouped_mm", "Transformers, eager"]


class Engine(Protocol):
    """A model with a cache."""

    def reset(self) -> None:
        """Empty the cache."""

    def step(self, tokens: Sequence[int]) -> np.ndarray:
        """Read tokens after those in the cache and return the last one's logits."""

    def decode_seconds(self, prompt: Sequence[int]) -> float:
        """Seconds per greedy token after the first."""


class LlamaCpp:
    """llama.cpp through its C interface, which is quicker than its Python one."""

    def __init__(self, folder: Path) -> None:
        import llama_cpp  # type: ignore[import-not-found]  # a peer, installed for this benchmark alone

        self._api = llama_cpp
        model_options = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(str(folder / "model.gguf").encode(), model_options)
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = 512
        options.n_threads = options.n_threads_batch = THREADS
        self._context = llama_cpp.llama_init_from_model(self._model, options)

    def reset(self) -> None:
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)

    def step(self, tokens: Sequence[int]) -> np.ndarray:
        tokens_read = (self._api.llama_token * len(tokens))(*tokens)  # A batch only points to it.
        if self._api.llama_decode(self._context, self._api.llama_batch_get_one(tokens_read, len(tokens))):
            raise SystemExit(f"llama.cpp cannot decode {len(tokens)} tokens.")
        logits = self._api.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(logits, shape=(SIZES["vocab_size"],))

    def decode_seconds(self, prompt: Sequence[int]) -> float:
        self.reset()
        token = int(self.step(prompt).argmax())
        started = time.perf_counter()
        for _ in range(NEW_TOKENS - 1):
            token = int(self.step([token]).argmax())
        return (time.perf_counter() - started) / (NEW_TOKENS - 1)


class Transformers:
    """Transformers' Mixtral, whoever's experts it runs."""

    def __init__(self, folder: Path, *, experts: str, dtype: str = "bfloat16", fast: bool = False) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(THREADS)
        torch.set_grad_enabled(False)
        self._network = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        if experts == "moesaic":
            import moesaic.experts  # noqa: F401  # Registers the implementation.
        self._network.set_experts_implementation(experts)
        if fast:
            from moesaic.experts import fast_decoding

            self._decoding = fast_decoding(self._network)
            self._decoding.__enter__()  # for as long as the process lasts
        self.reset()

    def reset(self) -> None:
        self._cache = None

    def step(self, tokens: Sequence[int]) -> np.ndarray:
        import torch

        tokens_read = torch.tensor([tokens])
        outputs = self._network(tokens_read, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._cache = outputs.past_key_values
        return outputs.logits[0, -1].float().numpy()

    def decode_seconds(self, prompt: Sequence[int]) -> float:
        import torch

        clock = Clock()
        self._network.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            streamer=clock,
        )
        times = clock.times[1:]  # ``generate`` hands over the prompt first.
        assert len(times) == NEW_TOKENS
        return (times[-1] - times[0]) / (NEW_TOKENS - 1)


class Clock:
    """A streamer that keeps the time at which each token came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def load(way: str, folder: Path) -> Engine:
    if way == LLAMA_CPP:
        return LlamaCpp(folder)
    if way == REFERENCE:
        return Transformers(folder, experts="eager", dtype="float32")
    return Transformers(folder, experts=EXPERTS[way], fast=way == FAST)


def random_tokens(count: int) -> list[int]:
    tokens = np.random.default_rng(0).integers(SIZES["vocab_size"], size=count)
    return [int(token) for token in tokens]


def next_token_logits(engine: Engine) -> np.ndarray:
    """Logits after half of a text, and after each of its further tokens."""
    text = random_tokens(COMPARED_TOKENS)
    half = COMPARED_TOKENS // 2
    steps = [text[:half], *([token] for token in text[half:])]
    return np.stack([engine.step(tokens).copy() for tokens in steps])


def seconds_per_token(engine: Engine) -> dict[str, float]:
    """Median seconds per token of decoding and of prefill, each after a call that does not count."""
    prompt, text = random_tokens(PROMPT_TOKENS), random_tokens(PREFILL_TOKENS)
    decoding = [engine.decode_seconds(prompt) for _ in range(1 + DECODE_CALLS)]
    prefill = []
    for _ in range(1 + PREFILL_CALLS):
        engine.reset()
        started = time.perf_counter()
        engine.step(text)
        prefill.append((time.perf_counter() - started) / PREFILL_TOKENS)
    return {"decoding": statistics.median(decoding[1:]), "prefill": statistics.median(prefill[1:])}


def write_checkpoint(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, MixtralConfig

    torch.manual_seed(0)
    # Without an end, ``generate`` never stops early.
    config = MixtralConfig(**SIZES, bos_token_id=None, eos_token_id=None, dtype="bfloat16")
    network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    network.save_pretrained(folder)
    print(f"A Mixtral of {network.num_parameters():,} parameters", flush=True)


def write_gguf(folder: Path) -> None:
    """Write the checkpoint as llama.cpp's converter would: in bfloat16, but for norms and routers."""
    import gguf  # type: ignore[import-not-found]  # a peer's format, installed for this benchmark alone

    config = json.loads((folder / "config.json").read_text())
    heads, key_value_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_value_heads)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_expert_count(config["num_local_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_tokenizer_model("no_vocab")

    weights = read_bfloat16(folder / "model.safetensors")

    def add(name: str, weight: np.ndarray) -> None:
        if "norm" in name or "gate_inp" in name:
            writer.add_tensor(name, (weight.astype(np.uint32) << 16).view(np.float32))
        else:
            raw = np.ascontiguousarray(weight).view(np.uint8)
            writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)

    add("token_embd.weight", weights["model.embed_tokens.weight"])
    add("output_norm.weight", weights["model.norm.weight"])
    add("output.weight", weights["lm_head.weight"])
    for layer in range(config["num_hidden_layers"]):
        ours, theirs = f"model.layers.{layer}", f"blk.{layer}"
        add(f"{theirs}.attn_norm.weight", weights[f"{ours}.input_layernorm.weight"])
        add(f"{theirs}.attn_q.weight", interleave(weights[f"{ours}.self_attn.q_proj.weight"], heads))
        add(f"{theirs}.attn_k.weight", interleave(weights[f"{ours}.self_attn.k_proj.weight"], key_value_heads))
        add(f"{theirs}.attn_v.weight", weights[f"{ours}.self_attn.v_proj.weight"])
        add(f"{theirs}.attn_output.weight", weights[f"{ours}.self_attn.o_proj.weight"])
        add(f"{theirs}.ffn_norm.weight", weights[f"{ours}.post_attention_layernorm.weight"])
        add(f"{theirs}.ffn_gate_inp.weight", weights[f"{ours}.block_sparse_moe.gate.weight"])
        for part, key in (("gate", "w1"), ("up", "w3"), ("down", "w2")):
            experts = [
                weights[f"{ours}.block_sparse_moe.experts.{expert}.{key}.weight"]
                for expert in range(config["num_local_experts"])
            ]
            add(f"{theirs}.ffn_{part}_exps.weight", np.stack(experts))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_bfloat16(path: Path) -> dict[str, np.ndarray]:
    """The weights of a safetensors file, as 16-bit patterns: NumPy has no bfloat16."""
    data = np.memmap(path, dtype=np.uint8, mode="r")
    start = 8 + int(data[:8].view(np.uint64)[0])
    header = json.loads(data[8:start].tobytes())
    weights = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            weights[name] = data[start + first : start + last].view(np.uint16).reshape(entry["shape"])
    return weights


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows for llama.cpp, which rotates neighbouring rows of a head where Transformers rotates its halves."""
    return weight.reshape(heads, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def run(python: Path, folder: Path, *arguments: str) -> str:
    """Standard output of this benchmark in another process."""
    command = [str(python), "-m", "benchmarks.decoding", "--folder", str(folder), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment)
    if finished.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{finished.stderr[-2000:]}")
    return finished.stdout


def compare(way: str, logits: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    return {
        "way": way,
        "same top token": float((logits.argmax(-1) == reference.argmax(-1)).mean()),
        "median difference": float(np.median(np.abs(logits - reference))),
        "highest difference": float(np.abs(logits - reference).max()),
        "standard deviation": float(reference.std()),
    }


def rows(figures: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """One row for each measure and way, compared with the quickest of Transformers' own ways."""
    table = []
    for measure in ("decoding", "prefill"):
        rates = {way: [1 / seconds[measure] for seconds in rounds] for way, rounds in figures.items()}
        best = max(statistics.median(rate) for way, rate in rates.items() if way in TRANSFORMERS)
        table += [
            {
                "measure": measure,
                "way": way,
                "tokens per second": statistics.median(rate),
                "lowest": min(rate),
                "highest": max(rate),
                "rate / Transformers' best": statistics.median(rate) / best,
            }
            for way, rate in rates.items()
        ]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", type=Path, help="The Python of an environment with llama-cpp-python and gguf.")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="What to measure; all unless given.")
    parser.add_argument("--rounds", type=int, default=4)
    # What a process of this benchmark's own does.
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--task", choices=["gguf", "logits", "seconds"], help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task == "gguf":
        write_gguf(arguments.folder)
    elif arguments.task == "logits":
        np.save(arguments.folder / "logits.npy", next_token_logits(load(arguments.way, arguments.folder)))
    elif arguments.task == "seconds":
        print(json.dumps(seconds_per_token(load(arguments.way, arguments.folder))))
    else:
        benchmark(arguments.ways, arguments.llama, arguments.rounds)


def benchmark(ways: list[str], llama: Path | None, rounds: int) -> None:
    from benchmarks.record import markdown, save

    if llama is None and LLAMA_CPP in ways:
        print("llama.cpp is left out: --llama does not say which Python has llama-cpp-python and gguf.")
        ways = [way for way in ways if way != LLAMA_CPP]
    pythons = {LLAMA_CPP: llama or Path(), **dict.fromkeys([REFERENCE, *EXPERTS], Path(sys.executable))}
    versions = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder)
        if llama is not None and LLAMA_CPP in ways:
            run(llama, folder, "--task", "gguf")
            versions = llama_versions(llama)
            print(f"llama.cpp of {versions}", flush=True)

        logits = {}
        for way in (REFERENCE, *ways):
            run(pythons[way], folder, "--task", "logits", "--way", way)
            logits[way] = np.load(folder / "logits.npy")
        agreement = [compare(way, logits[way], logits[REFERENCE]) for way in ways]
        print(markdown(agreement), flush=True)
        for row in agreement:
            if row["median difference"] > ALLOWED_DIFFERENCE * row["standard deviation"]:
                raise SystemExit(f"{row['way']} does not compute what {REFERENCE} does: see the table above.")

        figures: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for turn in range(rounds):
            for way in ways if turn % 2 == 0 else reversed(ways):
                output = run(pythons[way], folder, "--task", "seconds", "--way", way)
                figures[way].append(json.loads(output.splitlines()[-1]))
                print(way, {measure: f"{1 / value:.1f}/s" for measure, value in figures[way][-1].items()}, flush=True)
    save(
        "decoding",
        rows(figures),
        sizes=SIZES,
        dtype="bfloat16",
        threads=THREADS,
        rounds=rounds,
        prompt_tokens=PROMPT_TOKENS,
        new_tokens=NEW_TOKENS,
        prefill_tokens=PREFILL_TOKENS,
        agreement=agreement,
        versions=versions,
    )


def llama_versions(python: Path) -> dict[str, str]:
    program = (
        "import json, llama_cpp, importlib.metadata as m; "
        "print(json.dumps({'llama-cpp-python': m.version('llama-cpp-python'), 'gguf': m.version('gguf'),"
        " 'system': llama_cpp.llama_print_system_info().decode()}))"
    )
    return json.loads(subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()
