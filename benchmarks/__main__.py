"""Run the benchmarks by name, or all of them."""

import sys

from benchmarks import analysis, readiness, request, variants

BENCHMARKS = {"analysis": analysis.run, "request": request.run, "readiness": readiness.run, "variants": variants.run}


def main(names: list[str]) -> None:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    for name in names or BENCHMARKS:
        BENCHMARKS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
