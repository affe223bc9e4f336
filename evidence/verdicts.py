"""How often the audit's verdict is right, and how many students it trains, on accuracies drawn at random.

    python evidence/verdicts.py --replications 500
    python evidence/verdicts.py --noise t3 --unequal
    python evidence/verdicts.py --widest 3

Each row draws whole audits: attacks with a planted gain over one shared baseline, independent students, default looks.
The truths: "all -.5" points; "one +1.0", the rest -.5; "one 0", the rest -.5; "one at margin", the rest -.5, where a
verdict that says below the margin is wrong, which at most 5 % of audits may be; "all 0", where a verdict that says
leaks or distillable is wrong, likewise. Runs count the students of all arms that an audit used.
"""

import argparse
import datetime
import time
import typing
from collections import Counter

import numpy as np
import scipy

from hf_cmim.statistics import Baselines, Decision, Design, Verdict, replay

SPREADS = (0.002, 0.003, 0.0045)
TRUTHS = ("all -.5", "one +1.0", "one 0", "one at margin", "all 0")
TYPICAL = 0.7


def gains(truth: str, num_attacks: int, margin: float) -> np.ndarray:
    """Return each attack's true gain; the singled-out attack comes first."""
    values = np.full(num_attacks, 0.0 if truth == "all 0" else -0.005)
    values[0] = {"one +1.0": 0.01, "one 0": 0.0, "one at margin": margin}.get(truth, values[0])
    return values


def noise(generator: np.random.Generator, kind: str, size: int) -> np.ndarray:
    """Return deviations with standard deviation 1."""
    if kind == "normal":
        return generator.standard_normal(size)
    return generator.standard_t(3, size) / np.sqrt(3)


def audit(generator: np.random.Generator, true_gains: np.ndarray, spread: float, args: argparse.Namespace) -> Decision:
    """Draw the students of one audit and decide."""
    design = Design(margin=args.margin)
    spreads = np.full(len(true_gains) + 1, spread)
    spreads[0] *= args.widest
    if args.unequal:
        spreads *= np.exp(0.5 * generator.standard_normal(len(spreads)))
    cap = design.looks[-1]
    accuracies = {
        f"attack {index}": TYPICAL + gain + spreads[index] * noise(generator, args.noise, cap)
        for index, gain in enumerate(true_gains)
    }
    baselines = {attack: Baselines("baseline", ("baseline",)) for attack in accuracies}
    reference = cap * (design.reference_multiple if len(true_gains) > 1 else 1)
    accuracies["baseline"] = TYPICAL + spreads[-1] * noise(generator, args.noise, reference)
    return replay({name: values.clip(0, 1).tolist() for name, values in accuracies.items()}, baselines, design)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replications", type=int, default=500, help="audits of each row (default %(default)s)")
    parser.add_argument("--attacks", type=int, nargs="+", default=[6, 30], help="numbers of attacks (default 6 30)")
    parser.add_argument("--margin", type=float, default=0.005, help="a fraction (default %(default)s, half a point)")
    parser.add_argument("--noise", choices=["normal", "t3"], default="normal", help="shape of an arm's accuracies")
    parser.add_argument("--unequal", action="store_true", help="log-normal spreads of the arms, sigma .5")
    parser.add_argument("--widest", type=float, default=1.0, help="factor of the first attack's spread (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default 0)")
    args = parser.parse_args()
    print(
        f"{args.replications} audits a row, margin {100 * args.margin:g} points, {args.noise} noise,"
        f" {'log-normal' if args.unequal else 'equal'} spreads, first attack x {args.widest:g}, seed {args.seed};"
        f" {datetime.date.today()}, numpy {np.__version__}, scipy {scipy.__version__}\n"
    )
    verdicts = typing.get_args(Verdict)
    print("| attacks | spread, points | truth | " + " | ".join(verdicts) + " | runs | seconds |")
    print("|---" * (len(verdicts) + 5) + "|")
    for num_attacks in args.attacks:
        for spread in SPREADS:
            for truth in TRUTHS:
                start = time.perf_counter()
                generator = np.random.default_rng(args.seed)
                true_gains = gains(truth, num_attacks, args.margin)
                counts, runs = Counter[str](), 0
                for _ in range(args.replications):
                    decision = audit(generator, true_gains, spread, args)
                    counts[decision.verdict] += 1
                    runs += sum(each.seeds for each in decision.comparisons)
                    runs += max(each.baseline_seeds for each in decision.comparisons)
                shares = " | ".join(f"{counts[verdict] / args.replications:.3f}" for verdict in verdicts)
                seconds = time.perf_counter() - start
                print(
                    f"| {num_attacks} | {100 * spread:g} | {truth} | {shares} | {runs / args.replications:.1f}"
                    f" | {seconds:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
