"""Refits of the recipe's first schedule under several seeds: each, their ensemble, their soup.

All are trained on train and validation photos together. The ensemble averages probabilities, the
soup weights. A line for each, with its errors on the test photos.
"""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from ablation import Ablation
from recipe_task import Asked, PhotoList, command_line

from trainers.checkpoint import read_weights, save_weights
from trainers.classifier import load
from trainers.soup import average


def refit(asked: Asked, folder: Path) -> Path:
    """Train the recipe under a seed, print its answer, and return its weights."""
    folder.mkdir()
    ablation = Ablation(asked, folder, refit=True)
    ablation.answer("the recipe").print()
    return ablation.weights("the recipe")


def soup_of(files: list[Path], path: Path) -> Path:
    """Average the weights of files whose BatchNorm statistics were frozen at the same."""
    read = [read_weights(file) for file in files]
    save_weights(path, average(weights for weights, _ in read), read[0][1])
    return path


def main() -> None:
    """Train under each seed, and print what comes of the first two, three and so on together."""
    parser = command_line(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    asked, test = Asked.of(given), PhotoList.read(given.data).test
    files, answers = [], []
    with TemporaryDirectory() as folder:
        for seed in range(given.seeds):
            files.append(refit(replace(asked, seed=seed), Path(folder) / str(seed)))
            answers.append(load(files[-1]).predict(test.paths))
            soup = load(soup_of(files, Path(folder) / "soup.safetensors"))
            found = {"ensemble": np.mean(answers, axis=0), "soup": soup.predict(test.paths)}
            for name, shares in found.items():
                wrong = test.wrong(shares.argmax(1))
                told = {"data": given.data.stem, "what": name, "seeds": seed + 1}
                print(json.dumps(told | {"errors": len(wrong)}), flush=True)


if __name__ == "__main__":
    main()
