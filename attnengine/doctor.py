"""`attnengine doctor`: what this machine has, which kernels would run on it, and how to mend what is missing.

Everything is asked inside functions and nothing is taken for granted: a missing or broken package is a finding, not a
crash. The report is plain data, so that `--json` can go into a bug report.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from attnengine.bundled import bundled_model
from attnengine.errors import ModelError

Report = dict[str, Any]

# Distribution name -> what is lost without it. Those without a dash are required by pyproject.toml.
PACKAGES = {
    "torch": "nothing can be analysed",
    "transformers": "no model can be loaded",
    "tokenizers": "no text can be tokenised",
    "triton": "no GPU kernels",
    "numpy": "no run can be read",
    "pandas": "no run can be read",
    "pyarrow": "no run can be read",
    "safetensors": "no weights and no shards can be read",
    "numba": "no embedding and no rasters",
    "umap-learn": "no comparison layout",
    "scikit-learn": "no t-SNE, no sample images",
    "bokeh": "no explorer",
    "pillow": "no images",
    "typer": "no command line",
    "rich": "no progress display",
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "firefox")


def report() -> Report:
    """What this machine has, as plain data; ``problems`` is a list of {"what", "remedy"}, empty if all is well."""
    packages = {name: installed_version(name) for name in PACKAGES}
    torch_facts, torch_problems = ask_torch()
    kernel_facts, kernel_problems = ask_kernels()
    model, model_problems = ask_bundled_model()
    return {
        "attnengine": installed_version("attnengine"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        **torch_facts,
        **kernel_facts,
        "bundled_model": model,
        "browser": next(filter(None, map(shutil.which, BROWSERS)), None),
        "hugging_face_kernels": installed_version("kernels"),
        "problems": missing(packages) + torch_problems + kernel_problems + model_problems + shadowed(),
    }


def installed_version(distribution: str) -> str | None:
    """The installed version of a distribution, None if there is none."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def problem(what: str, remedy: str) -> dict[str, str]:
    """A finding that a person should act on."""
    return {"what": what, "remedy": remedy}


def missing(packages: dict[str, str | None]) -> list[dict[str, str]]:
    """One problem for each required package that is not installed. Triton is required on Linux only."""
    return [
        problem(f"{name} is not installed: {PACKAGES[name]}", f"pip install {name}")
        for name, found in packages.items()
        if found is None and not (name == "triton" and sys.platform != "linux")
    ]


def ask_torch() -> tuple[Report, list[dict[str, str]]]:
    """CPU threads, CUDA build and devices, from torch itself."""
    facts: Report = {"cpu_threads": None, "cuda_build": None, "devices": []}
    try:
        import torch
    except Exception as error:  # a broken native library raises OSError, an old NumPy AttributeError: all are findings
        return facts, [problem(f"torch cannot be loaded: {one_line(error)}", "pip install --force-reinstall torch")]
    facts["cpu_threads"] = torch.get_num_threads()
    facts["cuda_build"] = torch.version.cuda
    if torch.cuda.is_available():
        facts["devices"] = [describe_device(index) for index in range(torch.cuda.device_count())]
    elif shutil.which("nvidia-smi"):
        remedy = "check that nvidia-smi answers, and that torch is a CUDA build for this driver"
        return facts, [problem(f"an NVIDIA driver is here, but torch {torch.__version__} sees no device", remedy)]
    return facts, []


def describe_device(index: int) -> Report:
    """Name, memory and compute capability of a CUDA device."""
    import torch

    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
    }


def ask_bundled_model() -> tuple[str | None, list[dict[str, str]]]:
    """Where the demo's model lies, its checksums compared."""
    try:
        return str(bundled_model()), []
    except ModelError as error:
        what, _, remedy = str(error).rpartition(": ")
        return None, [problem(what, remedy)]


def shadowed() -> list[dict[str, str]]:
    """A regular package called `kernels` that is not Hugging Face's would be imported by transformers in its place."""
    spec = importlib.util.find_spec("kernels")
    if spec is None or spec.origin is None or installed_version("kernels") is not None:
        return []
    return [problem(f"{spec.origin} hides Hugging Face's `kernels` from transformers", "rename that package")]


def one_line(error: BaseException) -> str:
    """An error's first line, with its kind."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"


def render(found: Report) -> str:
    """The report for a person: one fact a line, then each problem with its remedy."""
    packages = ", ".join(f"{name} {number}" for name, number in found["packages"].items() if number)
    devices = ", ".join(f"{d['name']} ({d['memory_gib']} GiB, sm_{d['capability']})" for d in found["devices"])
    facts = {
        "attnengine": found["attnengine"] or "not installed (running from a checkout)",
        "Python": f"{found['python']} on {found['platform']}",
        "packages": packages,
        "CPU": f"{found['cpu_cores']} cores, torch uses {found['cpu_threads'] or 'no'} threads",
        "GPU": devices or f"none (torch built for CUDA {found['cuda_build']})",
        "kernels": found["kernel_path"] or "none",
        "demo model": found["bundled_model"] or "none",
        "browser": found["browser"] or "none on PATH; the explorer prints an address to open",
        "HF kernels": found["hugging_face_kernels"] or "not installed (not needed)",
    }
    lines = [f"{name:<12}{value}" for name, value in facts.items()]
    lines += ["", *(f"! {p['what']}\n  -> {p['remedy']}" for p in found["problems"])]
    return "\n".join(lines if found["problems"] else [*lines, "no problems found"])
