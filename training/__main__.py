"""`python -m training mini-gpt` makes the model anew and prints its held-out figures; with `--measure` it only prints them."""

import argparse
import dataclasses
from pathlib import Path

import torch
import transformers

from training import mini_bert, mini_gpt, mini_t5

MINIS = {"mini-bert": mini_bert, "mini-gpt": mini_gpt, "mini-t5": mini_t5}


def main() -> None:
    """Read the command line, train, measure."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("name", choices=MINIS)
    parser.add_argument("--into", type=Path, default=Path("kqv/minis"), help="where its folder is (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="train for so many steps, for a trial")
    parser.add_argument("--measure", action="store_true", help="don't train: measure what is there")
    arguments = parser.parse_args()
    mini, folder = MINIS[arguments.name], arguments.into / arguments.name
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(2)  # the order of a sum, and so its last bits, depends on how many threads share it
    torch.manual_seed(0)
    if not arguments.measure:
        mini.make(folder, dataclasses.replace(mini.PLAN, steps=arguments.steps or mini.PLAN.steps))
    mini.measure(folder)


if __name__ == "__main__":
    main()
