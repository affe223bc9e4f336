"""Compile the Triton kernels for a GPU that need not be there, and print what each takes of it.

    python tests/hardening/compiled_kernels.py 90

For each kernel a line of JSON: its name, settings, and bytes of registers that spill to memory. The module decides at
import whether its kernels are interpreted, so this runs in a process of its own.
"""

import json
import re
import subprocess
import sys
import tempfile
from itertools import product
from typing import Any

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

LEVELS, UNIT = 8, 16
KINDS = {"labels": "*i64"}
SCALING, EXTRAPOLATION = ["multiplier", "outward", "scale_terms"], ["log_marginals", "ratios", "references"]
SIZES = ("classes", "logit_stride", "level_stride", "row_stride")


def compiled(kernel: Any, block: int, warps: int, dtype: str, absent: list[str], capability: int) -> Any:
    """Compile a kernel as the launch would, without the arguments in `absent`."""
    constants = {"ORDER": tuple(range(LEVELS)), "LEVELS": LEVELS, "LANES": LEVELS, "UNIT": UNIT, "BLOCK": block}
    constants |= {"SQUARING": True} if "SQUARING" in kernel.arg_names else {}
    constants |= dict.fromkeys(absent)
    signature: dict[str, Any] = {}
    for name in kernel.arg_names:
        kind = f"*{dtype}" if name in ("logits", "log_centroids", "gradient") else KINDS.get(name, "*fp32")
        kind = "i32" if name in SIZES else kind
        signature[name] = "constexpr" if name in constants else kind
    signature["inverse"] = ("fp32",) * LEVELS
    places = {name: (place,) for place, name in enumerate(kernel.arg_names)}
    aligned = {places[name]: [["tt.divisibility", 16]] for name, kind in signature.items() if kind[0] == "*"}
    source = ASTSource(kernel, signature, {places[name]: value for name, value in constants.items()}, aligned)
    options = {"num_warps": warps, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def spilled_bytes(program: Any) -> int:
    """Bytes of each thread's registers that do not fit and go to memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(program.asm["cubin"])
        file.flush()
        tool = [knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        shown = subprocess.run(tool, capture_output=True, text=True, check=True).stdout
    return int(re.search(r"STACK:(\d+)", shown).group(1))


def main() -> None:
    """Compile every variant that `_launch` may ask for, at the sizes where registers are scarcest."""
    torch.cuda.is_available = lambda: True  # here, not on import: a collector of tests may import every file
    from hf_cmim.hardening.kernels import triton as launched

    without = [SCALING + EXTRAPOLATION, SCALING, EXTRAPOLATION]  # the objective never asks for both
    variants = product(("fp32", "bf16"), (names + more for names in without for more in ([], ["gradient"])))
    kernels = [(launched._row_kernel, block, max(1, block // 256)) for block in (16, 1024, 8192)]
    kernels.append((launched._chunk_kernel, 1024, 8))
    for (dtype, absent), (kernel, block, warps) in product(variants, kernels):
        program = compiled(kernel, block, warps, dtype, absent, int(sys.argv[1]))
        row = {"kernel": kernel.__name__, "block": block, "dtype": dtype, "absent": absent}
        print(json.dumps(row | {"spilled": spilled_bytes(program)}))


if __name__ == "__main__":
    main()
