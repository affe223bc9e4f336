"""Time a whole audit of small text students: processor seconds, students a minute, and a digest of what they predict.

    python benchmarks/whole_audit.py --data_dir ../shared/data/wordnet_lexnames
    python benchmarks/whole_audit.py --data_dir ../shared/data/wordnet_lexnames --controls 9 --epochs 1  # ten teachers

The teacher is the cross-entropy teacher of evidence/audit_teachers.py wordnet, trained once; six families of
attacks, three seeds each, a mean of embeddings as the student. Everything from the examination of the data to the
report counts, on one thread. Two commits with the same digest have trained the same students.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path

import torch
import transformers
from safetensors.numpy import load_file

from hf_cmim import Audit, AuditModels, AuditPlan, DistillationConfig
from hf_cmim.channels import Sharpened
from hf_cmim.teachers import ModelTeacher

sys.path.append(str(Path(__file__).parents[1] / "evidence"))
from audit_teachers import AUDITED, audit_data, suite_of, teacher

FAMILIES = ["kd", "dist", "norm-kd", "dkd", "wttm", "nkd"]


def digest_of(students: list[Path]) -> str:
    """The first digits of a hash of all stored predictions, in the order of file names."""
    digest = hashlib.sha256()
    for path in sorted(students):
        for name, value in sorted(load_file(path).items()):
            digest.update(f"{path.name} {name} {value.shape}".encode() + value.tobytes())
    return digest.hexdigest()[:16]


def main() -> None:
    """Run one audit and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="folder of the WordNet glosses")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/whole_audit/audit"), help="emptied first")
    parser.add_argument("--teachers", type=Path, default=Path("outputs/whole_audit/teachers"), help="of the teacher")
    parser.add_argument("--epochs", type=int, default=5, help="of a student")
    parser.add_argument("--controls", type=int, default=0, help="other teachers: the same with sharper answers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.logging.set_verbosity_error()
    shutil.rmtree(options.output_dir, ignore_errors=True)
    chosen = AUDITED["wordnet"]
    model = teacher("wordnet", "ce", options.data_dir, options.teachers, 1)
    args = DistillationConfig(
        str(options.output_dir), num_train_epochs=options.epochs, learning_rate=chosen.learning_rate, warmup_steps=0.1,
        weight_decay=chosen.weight_decay, per_device_train_batch_size=100, per_device_eval_batch_size=2_000,
        report_to="none", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    plan = AuditPlan(suite=suite_of(FAMILIES), looks=(3,), screening_seeds=1, final_seeds=1)
    scales = {f"sharpened {number}": 1 + number / 10 for number in range(1, options.controls + 1)}
    controls = {name: ModelTeacher(model, channel=Sharpened(scale=scale)) for name, scale in scales.items()}
    models = AuditModels(model, chosen.build_student, None, controls, chosen.student_name)
    data = audit_data("wordnet", options.data_dir)
    started = time.process_time()
    Audit(models, data, args, plan, "whole audit").run()
    seconds = time.process_time() - started
    students = list((options.output_dir / "students").glob("*.safetensors"))
    result = {
        "students": len(students), "processor_seconds": round(seconds, 1),
        "students_a_minute": round(60 * len(students) / seconds, 1), "predictions": digest_of(students),
        "epochs": options.epochs, "teachers": 1 + options.controls,
        "torch": torch.__version__, "transformers": transformers.__version__,
        "machine": f"{platform.machine()}, one thread", "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
