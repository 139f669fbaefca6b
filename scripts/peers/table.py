"""Samples of two sides as one table in Markdown."""

import statistics

# Above this, others have slowed the servers down by more than the drift of a quiet machine.
OTHERS_MAX = 0.1


class Row:
    """One figure of both sides, with what others took of the machine meanwhile."""

    def __init__(self, name):
        self.name, self.samples, self.others = name, ([], []), 0.0

    @property
    def is_time(self):
        """Whether less is better."""
        return self.name.endswith(" ms")

    def ratio(self):
        """How many times as fast the first side is, by medians."""
        ours, theirs = map(statistics.median, self.samples)
        better, worse = (ours, theirs) if self.is_time else (theirs, ours)
        return worse / better if better else float("inf")


def side(samples):
    """`12.3 [11.0–14.2]`"""
    digits = 0 if statistics.median(samples) >= 1000 else 1
    middle, least, most = (f"{value:.{digits}f}" for value in (statistics.median(samples), min(samples), max(samples)))
    return f"{middle} [{least}–{most}]"


def markdown(facts, names, rows):
    """Facts as a list, rows as a table, and a warning where the machine was busy."""
    lines = [f"- {name}: {value}" for name, value in facts]
    lines += ["", f"| median [least–greatest] | {names[0]} | {names[1]} | × as fast | others' cores |", "|---|---|---|---|---|"]
    for row in rows:
        ours, theirs = map(side, row.samples)
        lines.append(f"| {row.name} | {ours} | {theirs} | {row.ratio():.2f} | {row.others:.2f} |")
    busiest = max((row.others for row in rows), default=0.0)
    if busiest > OTHERS_MAX:
        lines += ["", f"**The machine was busy: others took up to {busiest:.2f} cores. Measure again when it is quiet.**"]
    return "\n".join(lines)
