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
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING, Any

from attnengine.bundled import bundled_model
from attnengine.errors import ModelError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

Report = dict[str, Any]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "firefox")


def report() -> Report:
    """What this machine has, as plain data; ``problems`` is a list of {"what", "remedy"}, empty if all is well."""
    packages, package_problems = ask_packages()
    torch_facts, torch_problems = ask_torch()
    kernel_facts, kernel_problems = ask_kernels("cuda" if torch_facts["devices"] else "cpu")
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
        "problems": package_problems + torch_problems + kernel_problems + model_problems + shadowed(),
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


def ask_packages() -> tuple[dict[str, str | None], list[dict[str, str]]]:
    """The version of every required package, and a problem for each that is missing or out of range."""
    from packaging.requirements import Requirement

    try:
        needs = [Requirement(line) for line in requires("attnengine") or ()]
    except PackageNotFoundError:
        return {}, [problem("attnengine runs from a checkout and is not installed", "pip install --editable .")]
    packages: dict[str, str | None] = {}
    problems = []
    for need in needs:
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        found = packages[need.name] = installed_version(need.name)
        if found is None or not need.specifier.contains(found, prereleases=True):
            has = "is not installed" if found is None else f"is {found}"
            problems.append(problem(f"{need.name} {has}, expected {need.specifier or 'any version'}", remedy_for(need)))
    return packages, problems


def remedy_for(need: Requirement) -> str:
    """The command that installs a required package in a version that will do."""
    return f"pip install '{need.name}{need.specifier}'"


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


def ask_kernels(device: str) -> tuple[Report, list[dict[str, str]]]:
    """Which kernels a run on ``device`` would use, asked of the kernels themselves."""
    try:
        from attnengine_kernels.api import path_for

        return {"kernels": path_for(device)}, []
    except Exception as error:  # torch or triton missing or broken: a finding, like everything else here
        return {"kernels": {}}, [problem(f"the kernels cannot be loaded: {one_line(error)}", "mend torch and triton")]


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
        return str(bundled_model("causal")), []
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


def render(found: Report) -> None:
    """Print the report for a person: one fact a line, then each problem with its remedy."""
    devices = ", ".join(f"{d['name']} ({d['memory_gib']} GiB, sm_{d['capability']})" for d in found["devices"])
    facts = {
        "attnengine": found["attnengine"] or "not installed, running from a checkout",
        "Python": f"{found['python']} on {found['platform']}",
        "packages": ", ".join(f"{name} {number}" for name, number in found["packages"].items() if number),
        "CPU": f"{found['cpu_cores']} cores, torch uses {found['cpu_threads'] or 'no'} threads",
        "GPU": devices or f"none (torch is a {'CUDA ' + found['cuda_build'] if found['cuda_build'] else 'CPU'} build)",
        "kernels": ", ".join(f"{name}: {path}" for name, path in found["kernels"].items()) or "none",
        "demo model": found["bundled_model"] or "none",
        "browser": found["browser"] or "none on PATH; the explorer prints an address to open",
        "HF kernels": found["hugging_face_kernels"] or "not installed, not needed",
    }
    lines = [f"{name:<12}{value}" for name, value in facts.items()]
    lines += [f"! {p['what']}\n  -> {p['remedy']}" for p in found["problems"]] or ["no problems found"]
    sys.stdout.write("\n".join(lines) + "\n")
