"""Start files: scripts run by a shell with stand-ins for the servers, manifests held against published schemas."""

from __future__ import annotations

import json
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import start_words
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

import fitcalc
from fitcalc import catalog, emission
from fitcalc.cli import run
from fitcalc.emission import pods
from fitcalc.emission.run import run_of
from fitcalc.emission.server import Server, load_server, server_of
from fitcalc.emission.start import server_words, steps_of, written_file
from fitcalc.emission.yaml_text import document
from fitcalc.errors import FitcalcError, RequestError, UnknownNameError
from fitcalc.render.command import wrap_command
from fitcalc.spec.report import FitReport

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
RECORDED = sorted(path.stem for path in (ROOT / "profiles" / "emission").glob("*.toml") if path.stem != "containers")
GIB = 2**30
PROGRAMS = ("serve", "sglang.launch_server", "text-generation-launcher", "trtllm-serve", "llama-server")
"""The last word of each program."""


@cache
def fit(model: str, gpu: str | None, engine: str, **asked: Any) -> FitReport:
    options = dict(asked.pop("options", ()))
    return fitcalc.fit(model, gpu=gpu, engine=engine, engine_options=options, **asked)


def plan(model: str = "llama-3.1-8b", gpu: str | None = "a100-80", engine: str = "vllm", **asked: Any) -> FitReport:
    asked.setdefault("quant", "q4_k_m" if engine.startswith(("llama", "ollama")) else "bf16")
    return fit(model, gpu, engine, **asked)


def documents(report: FitReport, kind: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(emission.emit(report, kind)))


def command_words(report: FitReport) -> tuple[Server, list[str]]:
    """The server and the words behind its program in every command of the report."""
    server = server_of(report)
    command = report.recommendation.command if report.recommendation else ""
    served = [server_words(step)[1] for step in steps_of(command)]
    return server, [word for words in served if set(words) & set(PROGRAMS) for word in words]


# --- the words of the commands ----------------------------------------------------------------------------------------

SPECULATIVE = '{"method": "ngram", "num_speculative_tokens": 3}'
VLLM = [
    {},
    {"kv_dtype": "fp8", "options": (("enforce_eager", "true"), ("block_size", "32"), ("max_num_seqs", "64"))},
    {"options": (("enable_lora", "true"), ("max_loras", "2"), ("max_lora_rank", "32"), ("max_cpu_loras", "4"))},
    {"options": (("speculative_config", SPECULATIVE),)},
]
SGLANG = [
    {},
    {"kv_dtype": "fp8", "options": (("page_size", "16"), ("disable_cuda_graph", "1"), ("max_total_tokens", "65536"))},
    {"options": (("disable_radix_cache", "true"), ("swa_full_tokens_ratio", "0.5"))},
    {"options": (("mamba_full_memory_ratio", "0.5"), ("disable_hybrid_swa_memory", "true"))},
]
LLAMA = [
    {"concurrency": 3},
    {"options": (("kv_unified", "true"), ("swa_full", "true"), ("no_kv_offload", "true"), ("mmap", "false"))},
    {"kv_dtype": "q8_0", "options": (("flash_attn", "on"), ("n_gpu_layers", "20"), ("repack", "false"))},
    {"options": (("override_tensor", "ffn=CPU"),)},
]
VARIATIONS = {
    "vllm": VLLM,
    "sglang": SGLANG,
    "tgi": [{}, {"kv_dtype": "fp8", "options": (("cuda_graphs", "1,2,4"),)}],
    "tensorrt-llm": [{}, {"kv_dtype": "fp8", "options": (("tokens_per_block", "64"), ("cuda_graph_disabled", "true"))}],
    "llama.cpp": LLAMA,
}


def variations() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for engine in RECORDED:
        kind = next((kind for kind in VARIATIONS if engine.startswith(kind)), "")
        found += [(engine, asked) for asked in VARIATIONS.get(kind, [])]
    return found


@pytest.mark.parametrize(("engine", "asked"), variations())
def test_every_flag_is_an_argument_of_the_version_named(engine: str, asked: dict[str, Any]) -> None:
    for gpu in ("h100-sxm:2", "h100-sxm:16"):
        try:
            report = plan("llama-3.1-8b", gpu, engine, ram="256GB", **asked)
        except FitcalcError:
            continue
        server, words = command_words(report)
        flags = {word.partition("=")[0] for word in (*words, *server.listen) if word.startswith("-") and word != "-m"}
        assert flags
        assert flags <= server.arguments | {"-hf", "-ot"}, flags - server.arguments


@pytest.mark.parametrize("engine", [name for name in RECORDED if name.startswith(("vllm", "sglang", "tensorrt"))])
def test_flags_of_divided_models_exist(engine: str) -> None:
    for gpu, degrees in (("h100-sxm:8", {"data_parallel": 8}), ("h200:16", {}), ("h200:8", {"expert_parallel": True})):
        try:
            report = fit("deepseek-v3", gpu, engine, **degrees)
        except FitcalcError:
            continue
        server, words = command_words(report)
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= server.arguments


@pytest.mark.parametrize("engine", [name for name in RECORDED if name.startswith("ollama")])
def test_variables_and_parameters_of_ollama_exist(engine: str) -> None:
    report = fit("qwen2.5-32b", "rtx-4090", engine, quant="q8_0", context=4096, ram="256GB")
    server = server_of(report)
    steps = steps_of(report.recommendation.command if report.recommendation else "")
    environment, words = server_words(steps[0])
    assert words == ("ollama", "serve")
    assert environment.keys() <= server.arguments
    content = next(file for step in steps if (file := written_file(step)))[1]
    names = {line.split()[1] for line in content.splitlines() if line.startswith("PARAMETER")}
    assert "num_gpu" in names
    assert names <= server.arguments


def test_every_server_is_recorded_with_its_version_and_source() -> None:
    engines = set(catalog.ids("engines"))
    for name in RECORDED:
        server = load_server(str(ROOT / "profiles" / "emission" / f"{name}.toml"))
        assert name in engines
        assert server.source
        assert server.kind in emission.SCRIPTS
        number = server.version.split(" ")[0]
        assert all(number.removeprefix("b") in image for image in server.images.values())
    engines_of_servers = {catalog.load_engine(name).module for name in engines} - {"transformers", "mlx", "diffusers"}
    assert engines_of_servers == {catalog.load_engine(name).module for name in RECORDED}


# --- a command says the whole plan ------------------------------------------------------------------------------------


def read_back(report: FitReport) -> dict[str, Any]:
    """Options of `fit` from the words of the command alone."""
    server = server_of(report)
    steps = steps_of(report.recommendation.command if report.recommendation else "")
    files = dict(file for step in steps if (file := written_file(step)))
    if server.kind == "ollama":
        return start_words.ollama(server_words(steps[0])[0], files.get("Modelfile", ""), str(report.inputs["engine"]))
    _, words = server_words([step for step in steps if step.place != "others"][-1])
    given_ = start_words.arguments(words[next(at for at, word in enumerate(words) if word in PROGRAMS) + 1 :])
    if server.kind == "tensorrt-llm":
        return start_words.tensorrt_llm(given_, yaml.safe_load(files.get("fitcalc-trtllm.yaml", "{}")))
    return start_words.READERS[server.kind](given_)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["llama-3.1-8b", "qwen2.5-14b", "mixtral-8x7b", "gemma-3-12b", "gpt-oss-20b", "deepseek-v3"]),
    st.sampled_from(RECORDED),
    st.sampled_from(["a100-80:2", "rtx-4090", "l4:4", "h100-sxm:16", "h200:8"]),
    st.sampled_from([(4096, 1), (8192, 4), (16384, 6)]),
    st.sampled_from([None, "fp8", "q8_0"]),
)
@example("mixtral-8x7b", "llama.cpp-2024", "rtx-4090", (16384, 6), None)
@example("mixtral-8x7b", "llama.cpp", "rtx-4090", (8192, 4), "q8_0")
@example("deepseek-v3", "sglang", "h200:8", (8192, 4), "fp8")
@example("qwen2.5-14b", "ollama", "rtx-4090", (16384, 6), None)
def test_a_command_read_back_is_the_same_plan(
    model: str, engine: str, gpu: str, asked: tuple[int, int], kv_dtype: str | None
) -> None:
    context, concurrency = asked
    try:
        first = fit(model, gpu, engine, context=context, concurrency=concurrency, kv_dtype=kv_dtype, ram="512GB")
    except FitcalcError:
        return
    if not first.recommendation or not first.recommendation.command:
        return
    said = {"concurrency": concurrency} | read_back(first)
    second = fitcalc.fit(model, gpu=gpu, engine=engine, ram="512GB", quant=first.inputs["quant"], **said)
    assert second.recommendation is not None
    assert second.recommendation.command == first.recommendation.command
    assert second.inputs["context_tokens"] == context
    # Ollama keeps memory free only where it counts the layers itself; the command gives it their number.
    counted = [tuple(term for term in device.terms if term.name != "reserve" or "num_gpu" not in str(said))
               for device in first.devices]  # fmt: skip
    assert [device.terms for device in second.devices] == counted


# --- scripts ----------------------------------------------------------------------------------------------------------


def ran(script: str, folder: Path, names: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """The script in a shell where the servers are stand-ins that print their words, one to a line."""
    place = folder / "bin"
    place.mkdir(exist_ok=True)
    for name in names:
        stand_in = place / name
        stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$0" "$@" | sed "1s|.*/||"\n')
        stand_in.chmod(0o755)
    path = f"{place}:/usr/bin:/bin"
    return subprocess.run(
        ["/bin/sh", "-c", script], capture_output=True, text=True, cwd=folder, env={"PATH": path, **environment}
    )


@pytest.mark.parametrize(
    ("kind", "engine", "program"),
    [
        ("vllm", "vllm", "vllm"),
        ("sglang", "sglang", "python"),
        ("tgi", "tgi", "text-generation-launcher"),
        ("tensorrt-llm", "tensorrt-llm", "trtllm-serve"),
        ("llama.cpp", "llama.cpp", "llama-server"),
    ],
)
def test_a_script_runs_the_words_of_the_report(tmp_path: Path, kind: str, engine: str, program: str) -> None:
    report = plan(engine=engine)
    done = ran(emission.emit(report, kind), tmp_path, [program])
    assert done.returncode == 0, done.stderr
    words = shlex.split(report.recommendation.command if report.recommendation else "")
    assert done.stdout.splitlines() == words


def test_a_script_that_lacks_its_model_says_so(tmp_path: Path) -> None:
    report = plan("llama-3.1-8b", quant="gptq-g32")
    script = emission.emit(report, "vllm")
    lacking = ran(script, tmp_path, ["vllm"])
    assert lacking.returncode != 0
    assert "a-GPTQ-G32-repository-of-Llama-3.1-8B" in lacking.stderr
    given_ = ran(script, tmp_path, ["vllm"], MODEL="me/my model")
    assert given_.stdout.splitlines()[:3] == ["vllm", "serve", "me/my model"]


def test_a_script_over_nodes_runs_on_each(tmp_path: Path) -> None:
    script = emission.emit(fit("deepseek-v3", "h200:24", "vllm", pipeline_parallel=3, tensor_parallel=8), "vllm")
    for rank in range(3):
        words = ran(script, tmp_path, ["vllm"], FIRST_NODE="10.0.0.1", NODE_RANK=str(rank)).stdout.splitlines()
        assert words[words.index("--node-rank") + 1] == str(rank)
        assert words[words.index("--master-addr") + 1] == "10.0.0.1"
        assert ("--headless" in words) == (rank > 0)
    assert "NODE_RANK" in ran(script, tmp_path, ["vllm"], FIRST_NODE="10.0.0.1").stderr


def test_copies_start_at_their_own_rank(tmp_path: Path) -> None:
    report = fit("deepseek-v3", "h200:32", "vllm", data_parallel=32, expert_parallel=True)
    script = emission.emit(report, "vllm")
    starts = []
    for rank in range(1, 4):
        words = ran(script, tmp_path, ["vllm"], FIRST_NODE="a", NODE_RANK=str(rank), MODEL="m").stdout.splitlines()
        starts.append(int(words[words.index("--data-parallel-start-rank") + 1]))
    assert starts == [8, 16, 24]


def test_old_versions_join_a_cluster_first(tmp_path: Path) -> None:
    script = emission.emit(fit("deepseek-v3", "h200:16", "vllm-0.8"), "vllm")
    first = ran(script, tmp_path, ["vllm", "ray", "python3"], FIRST_NODE="a", NODE_RANK="0").stdout.splitlines()
    assert first[:4] == ["ray", "start", "--head", "--port=6379"]
    assert "--distributed-executor-backend" in first
    other = ran(script, tmp_path, ["vllm", "ray", "python3"], FIRST_NODE="a", NODE_RANK="1").stdout.splitlines()
    assert other == ["ray", "start", "--address=a:6379", "--block"]


def test_ollama_writes_its_modelfile(tmp_path: Path) -> None:
    report = plan(engine="ollama", gpu="rtx-3060-12gb", quant="q8_0")
    done = ran(emission.emit(report, "ollama"), tmp_path, ["ollama"])
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "Modelfile").read_text().splitlines()
    assert lines == ["FROM hf.co/bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q8_0", "PARAMETER num_ctx 8192"]
    # The server in the background prints when it likes.
    commands = sorted(done.stdout.split("ollama\n"))
    assert commands == ["", "create\nllama-3.1-8b-q8_0\n", "run\nllama-3.1-8b-q8_0\n", "serve\n"]


@given(st.lists(st.text(st.sampled_from("ab'\" $\\<x>-/"), min_size=1), min_size=1), st.integers(12, 60))
def test_a_wrapped_command_is_the_same_command(words: list[str], width: int) -> None:
    command = shlex.join(["serve", *words])
    assert shlex.split("\n".join(wrap_command(command, width)).replace("\\\n", "")) == ["serve", *words]


# --- YAML -------------------------------------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029"), max_size=20) | st.sampled_from(
    ["true", "No", "~", "null", "1e3", "0x10", "- a", "a: b", "# a", "a #b", "=", "<<", "on", "12:30:45", "2020-01-01"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts | st.just("one\ntwo\n") | st.just("one\n\n  two\n"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(texts, values, min_size=1, max_size=4))
def test_yaml_is_read_as_it_was_written(content: dict[str, Any]) -> None:
    assert yaml.safe_load(document(content)) == content


# --- schemas ----------------------------------------------------------------------------------------------------------


@cache
def schemas() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / "kubernetes_schemas.json").read_text())
    return found


def hold_to_kubernetes(objects: list[dict[str, Any]]) -> None:
    known = schemas()
    for entry in objects:
        kind = entry["kind"]
        schema = known.get(kind) or {"$ref": f"#/definitions/{known['kinds'][kind]}"}
        jsonschema.Draft7Validator({**schema, "definitions": known["definitions"]}).validate(entry)


PLANS = [
    ("vllm", "h100-sxm:4", "llama-3.1-70b", {}),
    ("vllm-0.8", "l4", "llama-3.1-8b", {}),
    ("vllm", "mi300x", "llama-3.1-8b", {}),
    ("sglang", "h100-sxm:2", "qwen2.5-14b", {}),
    ("tgi", "l4:2", "llama-3.1-8b", {}),
    ("tensorrt-llm", "h100-80", "llama-3.1-8b", {"kv_dtype": "fp8"}),
    ("llama.cpp", "rtx-4090:2", "llama-3.1-70b", {}),
    ("llama.cpp", "arc-a770-16gb", "llama-3.1-8b", {}),
    ("ollama", "rtx-3060-12gb", "llama-3.1-8b", {"quant": "q8_0"}),
    ("ollama", "rtx-3060-12gb", "llama-3.1-8b", {}),
    ("llama.cpp", "24GB", "qwen3-8b", {}),
]


@pytest.mark.parametrize(("engine", "gpu", "model", "asked"), PLANS)
def test_manifests_are_valid(engine: str, gpu: str, model: str, asked: dict[str, Any]) -> None:
    report = plan(model, gpu, engine, **asked)
    hold_to_kubernetes(documents(report, "kubernetes"))
    hold_to_kubernetes(documents(report, "leaderworkerset"))
    schema = json.loads((GOLDEN / "compose_schema.json").read_text())["schema"]
    jsonschema.Draft7Validator(schema).validate(yaml.safe_load(emission.emit(report, "docker-compose")))


@pytest.mark.oracle
@pytest.mark.parametrize(("engine", "gpu", "model", "asked"), PLANS)
def test_manifests_pass_the_validator_of_kubernetes(engine: str, gpu: str, model: str, asked: dict[str, Any]) -> None:
    import kubernetes_validate

    for entry in documents(plan(model, gpu, engine, **asked), "kubernetes"):
        kubernetes_validate.validate(entry, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("engine", ["vllm", "vllm-0.8", "sglang", "sglang-0.5"])
def test_groups_over_nodes_are_valid(engine: str) -> None:
    report = fit("deepseek-v3", "h200:16", engine)
    objects = documents(report, "leaderworkerset")
    hold_to_kubernetes(objects)
    group = next(entry for entry in objects if entry["kind"] == "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    assert group["size"] == 2
    for role in ("leader", "worker"):
        container = group[f"{role}Template"]["spec"]["containers"][0]
        assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    front = next(entry for entry in objects if entry["kind"] == "Service")["spec"]["selector"]
    assert front.items() <= group["leaderTemplate"]["metadata"]["labels"].items()
    assert not front.items() <= group["workerTemplate"]["metadata"]["labels"].items()


def test_a_group_starts_each_node_with_what_the_controller_tells_it(tmp_path: Path) -> None:
    report = fit("deepseek-v3", "h200:24", "vllm", pipeline_parallel=3, tensor_parallel=8)
    objects = documents(report, "leaderworkerset")
    group = next(entry for entry in objects if entry["kind"] == "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    for role, index in (("leader", "0"), ("worker", "1"), ("worker", "2")):
        container = group[f"{role}Template"]["spec"]["containers"][0]
        assert container["command"] == ["/bin/sh", "-c"]
        told = {"LWS_LEADER_ADDRESS": "group-0.group", "LWS_WORKER_INDEX": index}
        # Kubernetes reads $(NAME) and gives $$ as $.
        words = ran(container["args"][0].replace("$$", "$"), tmp_path, ["vllm"], **told).stdout.splitlines()
        assert words[words.index("--node-rank") + 1] == index
        assert words[words.index("--master-addr") + 1] == "group-0.group"


# --- what follows from the plan ---------------------------------------------------------------------------------------


def pod_of(report: FitReport) -> tuple[dict[str, Any], dict[str, Any]]:
    """(pod, its container) of a Deployment."""
    deployment = next(entry for entry in documents(report, "kubernetes") if entry["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    return pod, pod["containers"][0]


def test_the_container_runs_the_words_of_the_report() -> None:
    report = plan("llama-3.1-70b", "h100-sxm:4")
    _, container = pod_of(report)
    words = shlex.split(report.recommendation.command if report.recommendation else "")
    assert container["command"] + container["args"] == words
    compose = yaml.safe_load(emission.emit(report, "docker-compose"))["services"]["server"]
    assert compose["entrypoint"] + compose["command"] == words
    assert compose["image"] == container["image"] == "vllm/vllm-openai:v0.32.0"


def test_cards_and_shared_memory_follow_from_the_ranks() -> None:
    pod, container = pod_of(plan("llama-3.1-70b", "h100-sxm:4"))
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "4"}
    memory = next(volume for volume in pod["volumes"] if "emptyDir" in volume)
    assert memory["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
    assert {"name": memory["name"], "mountPath": "/dev/shm"} in container["volumeMounts"]
    compose = yaml.safe_load(emission.emit(plan("llama-3.1-70b", "h100-sxm:4"), "docker-compose"))["services"]["server"]
    asked = compose["deploy"]["resources"]["reservations"]["devices"]
    assert asked == [{"driver": "nvidia", "count": 4, "capabilities": ["gpu"]}]


def test_a_start_may_take_as_long_as_reading_the_checkpoint() -> None:
    report = plan("llama-3.1-70b", "h100-sxm:4")
    probe = pod_of(report)[1]["startupProbe"]
    seconds = report.checkpoint_bytes / 200e6 + 300
    assert seconds <= probe["periodSeconds"] * probe["failureThreshold"] < seconds + 11


def test_layers_in_ram_are_asked_for() -> None:
    report = fit("llama-3.1-70b", "rtx-4090", "llama.cpp", quant="q4_k_m", ram="128GB")
    host = next(device for device in report.devices if device.id == "host")
    asked = pod_of(report)[1]["resources"]["requests"]["memory"]
    assert host.high_bytes + 2 * GIB <= int(asked.removesuffix("Gi")) * GIB < host.high_bytes + 3.01 * GIB


def test_a_plan_without_cards_asks_for_none() -> None:
    report = fitcalc.fit("llama-3.1-8b", cpu="raspberry-pi-5-8gb", quant="q4_k_m")
    hold_to_kubernetes(documents(report, "kubernetes"))
    _, container = pod_of(report)
    assert "limits" not in container["resources"]
    assert container["image"].startswith("ghcr.io/ggml-org/llama.cpp:server-b")


def test_cards_of_other_vendors() -> None:
    _, container = pod_of(plan("llama-3.1-8b", "mi300x"))
    assert container["resources"]["limits"] == {"amd.com/gpu": "1"}
    assert "rocm" in container["image"]
    compose = yaml.safe_load(emission.emit(plan("llama-3.1-8b", "mi300x"), "docker-compose"))["services"]["server"]
    assert "/dev/kfd:/dev/kfd" in compose["devices"]
    with pytest.raises(RequestError, match=r"no image of llama\.cpp") as caught:
        emission.emit(plan("llama-3.1-8b", "apple-m3-max-64gb", "llama.cpp"), "kubernetes")
    assert "--emit llama.cpp" in caught.value.hint


def test_secrets_stay_out_of_the_files() -> None:
    _, container = pod_of(plan())
    token = next(entry for entry in container["env"] if entry["name"] == "HF_TOKEN")
    assert token["valueFrom"]["secretKeyRef"] == {"name": "hf-token", "key": "token", "optional": True}
    compose = yaml.safe_load(emission.emit(plan(), "docker-compose"))["services"]["server"]
    assert compose["environment"]["HF_TOKEN"] == "${HF_TOKEN:-}"


def test_a_file_beside_the_command_is_mounted() -> None:
    report = plan(engine="tensorrt-llm", kv_dtype="fp8")
    objects = documents(report, "kubernetes")
    files = next(entry for entry in objects if entry["kind"] == "ConfigMap")
    assert yaml.safe_load(files["data"]["fitcalc-trtllm.yaml"]) == {"kv_cache_config": {"dtype": "fp8"}}
    pod, container = pod_of(report)
    mount = next(entry for entry in container["volumeMounts"] if entry["name"] == "files")
    assert f"{mount['mountPath']}/fitcalc-trtllm.yaml" in container["args"]
    assert {"name": "files", "configMap": {"name": files["metadata"]["name"]}} in pod["volumes"]
    compose = yaml.safe_load(emission.emit(report, "docker-compose"))
    config = compose["services"]["server"]["configs"][0]
    assert config["target"] in compose["services"]["server"]["command"]
    assert compose["configs"][config["source"]]["content"] == files["data"]["fitcalc-trtllm.yaml"]


@pytest.mark.parametrize("name", ["plain", "with space", "it's $HOME $(id)", "-x", "ü; echo"])
def test_a_folder_of_this_machine_is_mounted(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    server = load_server(str(ROOT / "profiles" / "emission" / "vllm.toml"))
    found = run_of(server, f"vllm serve {shlex.quote(str(folder))} --max-model-len 8192", 0)
    assert found.folder == str(folder)
    assert found.arguments[0] == found.mount
    assert found.mount.startswith("/models/")
    assert shlex.quote(found.mount) == found.mount


def test_a_gguf_file_is_mounted_with_its_folder() -> None:
    server = load_server(str(ROOT / "profiles" / "emission" / "llama.cpp.toml"))
    found = run_of(server, "llama-server -m '/data/my models/a-00001-of-00002.gguf' -c 8192", 0)
    assert (found.folder, found.mount) == ("/data/my models", "/models")
    assert found.arguments[:2] == ("-m", "/models/a-00001-of-00002.gguf")


def test_dollars_reach_the_container_as_they_are() -> None:
    server = load_server(str(ROOT / "profiles" / "emission" / "llama.cpp.toml"))
    report = plan("llama-3.1-8b", "rtx-4090", "llama.cpp", ram="64GB", options=(("override_tensor", r"blk\..*$=CPU"),))
    words = yaml.safe_load(emission.emit(report, "docker-compose"))["services"]["server"]["command"]
    assert r"blk\..*$$=CPU" in words
    assert r"blk\..*$=CPU" in pod_of(report)[1]["args"]
    odd = run_of(server, "llama-server -m '/data/$(HOME).gguf'", 0)
    assert odd.arguments[1] == "/models/$(HOME).gguf"
    assert pods.kept(odd.arguments[1]) == "/models/$$(HOME).gguf"


# --- what is refused, and the command line ----------------------------------------------------------------------------


def test_a_kind_of_another_engine_is_refused() -> None:
    with pytest.raises(RequestError, match="the plan runs on vLLM") as caught:
        emission.emit(plan(), "sglang")
    assert "--emit vllm" in caught.value.hint
    with pytest.raises(UnknownNameError) as unknown:
        emission.emit(plan(), "kubernets")
    assert unknown.value.suggestions[0] == "kubernetes"
    with pytest.raises(RequestError, match="no server"):
        emission.emit(plan(engine="transformers"), "kubernetes")


@pytest.mark.parametrize("kind", ["kubernetes", "docker-compose"])
def test_several_nodes_need_a_group(kind: str) -> None:
    with pytest.raises(RequestError, match="2 nodes") as caught:
        emission.emit(fit("deepseek-v3", "h200:16", "vllm"), kind)
    assert "leaderworkerset" in caught.value.hint


def test_what_does_not_fit_is_not_started() -> None:
    with pytest.raises(RequestError, match="does not fit"):
        fitcalc.emit(plan("llama-3.1-70b", "rtx-4090"), "vllm")


def test_stdout_is_the_file_alone(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["llama-3.1-8b", "--gpu", "a100-80", "--quant", "gptq-g32", "--emit", "kubernetes"]
    assert run(asked) == 0
    out, err = capsys.readouterr()
    assert out == fitcalc.emit(fitcalc.fit("llama-3.1-8b", gpu="a100-80", quant="gptq-g32"), "kubernetes")
    assert "note: replace <a-GPTQ-G32-repository-of-Llama-3.1-8B> in the file" in err


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["llama-3.1-70b", "--gpu", "rtx-3060", "--quant", "fp16", "--emit", "k8s"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nothing to start: the plan does not fit")
    assert err.count("\n") == 1
    for bad in (["--emit", "helm"], ["--emit", "sglang"], ["--emit", "vllm", "--json"]):
        assert run(["llama-3.1-8b", "--gpu", "a100-80", "--engine", "vllm", *bad]) == 2
