"""The report as Markdown."""

from collections.abc import Mapping
from typing import Any


def markdown(report: Mapping[str, Any]) -> str:
    """The table of variants, and a line for each server, for decoding and for the total time."""
    sizes = report["batch_sizes"]
    times = [f"b{size} ms" for size in sizes]
    head = ["variant", "engine", "agreement", "distance", *times, "images/s", "why not"]
    lines = [f"# GPU check\n\n{report['machine']}\n", f"| {' | '.join(head)} |"]
    lines.append("|" + " --- |" * len(head))
    for row in report["variants"]:
        milliseconds = row.get("milliseconds", {})
        agreement = f"{row['agreement']:.2%}" if "agreement" in row else ""
        distance = f"{row['distance']:.2g}" if "distance" in row else ""
        cells = [row["variant"], row["engine"], agreement, distance]
        cells += [f"{milliseconds[size]:.2f}" if size in milliseconds else "" for size in sizes]
        bare = row.get("bare_images_per_second")
        cells += [f"{bare:,.0f}" if bare else "", row.get("why_not", "").replace("|", "/")]
        lines.append(f"| {' | '.join(cells)} |")
    for server in report["server"]:
        which = f"{server['variant']} in {server['engine']}"
        if "why_not" in server:
            lines.append(f"\nServer, {which}: not measured: {server['why_not']}")
            continue
        shares = ", ".join(f"{way} {share:.2f}" for way, share in server["ratio"].items())
        lines.append(
            f"\nServer against the bare engine, {which}, client batches of "
            f"{server['client_batch']}: {shares}."
        )
    decoded = ", ".join(
        f"{value:,.0f} on {name}" if isinstance(value, float) else f"none on {name} ({value})"
        for name, value in report["decode"].items()
    )
    lines.append(f"\nJPEGs decoded and resized a second: {decoded}.")
    lines.append(f"\nThe whole check took {report['seconds']:.0f} s.\n")
    return "\n".join(lines)
