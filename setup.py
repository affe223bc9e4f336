"""Everything the package says about itself; the version is written here and nowhere else."""

from pathlib import Path

from setuptools import find_packages, setup

# Lower bounds are the lowest versions the tests run with (constraints-lowest.txt), upper bounds the next major.
REQUIRES = [
    "torch>=2.11,<3",  # the tensors; GPU images carry 2.11, continuous integration runs 2.13
    "transformers>=5.18.0,<6",  # Trainer and TrainingArguments; 5.17 opens no image processor without torchvision
    "accelerate>=1.12.0,<2",  # Trainer runs on it; with 1.3 resuming inside an epoch was not exact
    "huggingface-hub>=1.31.0,<3",  # model cards and uploads; transformers 5.18 asks for 1.31
    "safetensors>=0.8.0,<1",  # the centroid bank inside a checkpoint
    "numpy>=2.0.0,<3",  # predictions as Trainer hands them over
    "scipy>=1.13.0,<2",  # the audit's t quantiles; an independent oracle of the tests
    "psutil>=5.9.5,<8",  # sees a launcher that asked for more processes than it started
    "jinja2>=3.1.6,<4",  # an audit's page and a model card; older releases have known security holes
    "pyyaml>=6.0.1,<7",  # reads that launcher's config file
    "datasets>=3.0.0,<6",  # the data of recipes and metrics; the core imports and trains without it
    "evaluate>=0.4.0,<1",  # loads hf_cmim/metrics; the core imports and trains without it
]
MATPLOTLIB = "matplotlib>=3.9.0,<4"  # hf_cmim.plots
CRYPTOGRAPHY = "cryptography>=50,<51"  # signatures of certificates
MODEL_SIGNING = [
    "model-signing>=1.1.1,<2",  # OpenSSF's signatures of whole models, which registries and clusters check
    "pyopenssl>=26,<27",  # model_signing 1.1.1 imports it and does not ask for it
]
PEFT = "peft>=0.21,<1"  # hardening and attacking LoRA adapters
PILLOW = "pillow>=10.4.0,<14"  # images for recipes and demo
SCIKIT_LEARN = "scikit-learn>=1.5.0,<2"  # the digits: 1,797 real images that come with the package

EXTRAS = {
    "plots": [MATPLOTLIB],
    "sign": [CRYPTOGRAPHY],
    "sigstore": MODEL_SIGNING,
    "peft": [PEFT],
    "demo": [MATPLOTLIB, PILLOW],
    # No torchvision and no timm here: beside a CPU torch they can break `from transformers import Trainer`.
    "test": [
        "pytest>=9,<10",  # runs the tests
        "pytest-xdist>=3.8,<4",  # runs them on two cores
        SCIKIT_LEARN,
        "onnxruntime>=1.30,<2",  # a session as a black-box teacher; the package itself never imports it
        "onnx>=1.23,<2",  # builds that session's network
        MATPLOTLIB,
        CRYPTOGRAPHY,
        *MODEL_SIGNING,
        "in-toto-attestation>=0.9.3,<1",  # reads our statements by in-toto's own schema
        "securesystemslib>=1.6,<2",  # checks our signed envelopes
        PEFT,
        "optuna>=5,<6",  # hyperparameter_search of both trainers
        PILLOW,
        "triton>=3.4,<4; platform_system == 'Linux'",  # GPU kernels; interpreting them takes 3.9
        "nbclient>=0.10,<1",  # executes the notebooks of recipes/notebooks
        "trl>=1.16,<2",  # its trainer of the same name, imported beside ours; TRL is for language models
        "ipykernel>=7,<8",  # the Python that they are executed in
        "gradio>=6.31,<7",  # the page of recipes/space
    ],
    "dev": [
        "ruff>=0.17,<1",  # lints and formats
        "mypy>=2.4,<3",  # strict on the package
        "typos>=1.52,<2",  # spelling
        "pre-commit>=4.7,<5",  # all of these before a commit
    ],
    "docs": [
        "mkdocs>=1.6,<2",  # builds the documentation from Markdown
        "mkdocs-material>=9.7,<10",  # its theme: search, dark and light, phones, no network
        "mkdocstrings[python]>=1,<2",  # the API from docstrings
    ],
}

README = Path(__file__).with_name("README.md")

setup(
    name="hf_cmim",
    version="0.1.0",
    description="Harden Hugging Face classifiers against knowledge distillation, attack them, and prove the result",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    author="The hf_cmim maintainers",
    license_expression="Apache-2.0",
    keywords="knowledge distillation, undistillable, conditional mutual information, transformers",
    packages=find_packages(include=["hf_cmim", "hf_cmim.*"]),
    package_data={
        "hf_cmim": [
            "py.typed",
            "metrics/**/*.py",
            "metrics/**/*.md",
            "pages/templates/*",
            "hub/templates/*",
            ".agents/skills/hf-cmim/SKILL.md",
        ]
    },
    python_requires=">=3.11",
    entry_points={"console_scripts": ["hf-cmim = hf_cmim.cli.main:main"]},
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
