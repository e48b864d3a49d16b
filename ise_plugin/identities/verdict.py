"""What a run on a folder has come to, in numbers and in words, without labels."""

from typing import NamedTuple, Optional

from tabulate import tabulate

from ..clustering.purity import GOOD, MIXED
from .signs import Signs

# Share of the images rightly grouped that must be gained to call it an improvement, or a run not yet at its end.
_NOTICED = 0.02
# Share of outliers from which something should be done about them.
_MANY_OUTLIERS = 0.3


class State(NamedTuple):
    """The groups that the weights of an epoch find, as far as they can be known without identities.

    Attributes:
        groups: how many.
        clustered: share of the images that are in one.
        purity: estimated (:mod:`ise_plugin.clustering.purity`); 0 without groups.
        separation: mean simplified silhouette of all images, in [-1, 1], an outlier counting 0.
    """

    groups: int
    clustered: float
    purity: float
    separation: float

    @property
    def right(self) -> float:
        """Share of all images that are, by the estimate, in a group of their person."""
        return self.clustered * self.purity


class Verdict(NamedTuple):
    """``people``: "probably", "partly" or "probably not". ``because``: reasons, a line each. ``choice``: which epoch was chosen,
    and why. ``change``: whether training improved on the start. ``advice``: the next thing to try. ``start``, ``chosen``: of the
    untrained and of the chosen weights."""

    people: str
    because: list
    choice: str
    change: str
    advice: str
    start: Optional[State]
    chosen: State

    @property
    def lines(self) -> list[str]:
        """The words."""
        kind = {
            "probably": "are probably people",
            "partly": "are people in part",
            "probably not": "are probably not people",
        }
        return [
            f"These groups {kind[self.people]}: {'; '.join(self.because)}.",
            *(f"{text[0].upper()}{text[1:]}." for text in (self.choice, self.change) if text),
            f"Next: {self.advice}.",
        ]

    @property
    def rows(self) -> list[list[str]]:
        """Untrained and chosen weights side by side: name, before (empty where not known), after."""
        shown = [
            ("groups", lambda state: f"{state.groups}"),
            ("images in a group", lambda state: f"{state.clustered:.1%}"),
            ("estimated purity", lambda state: f"{state.purity:.2f}"),
            ("rightly grouped, estimated", lambda state: f"{state.right:.0%}"),
            ("separation", lambda state: f"{state.separation:.3f}"),
        ]
        return [[name, form(self.start) if self.start else "", form(self.chosen)] for name, form in shown]

    @property
    def text(self) -> str:
        """For a console."""
        table = tabulate(self.rows, ["", "untrained", "chosen"], tablefmt="pipe", disable_numparse=True)
        return "\n".join([*self.lines, "", table])

    @property
    def content(self) -> dict:
        """For JSON; ``lines`` and ``rows`` as above."""
        rounded = lambda state: state and {name: round(value, 4) for name, value in state._asdict().items()}
        numbers = {"start": rounded(self.start), "chosen": rounded(self.chosen)}
        return {**self._asdict(), **numbers, "lines": self.lines, "rows": self.rows}


def judge(states: dict[int, State], chosen: int, signs: Optional[Signs], cfg) -> Verdict:
    """The verdict on a run.

    Args:
        states: epoch, counted from 1 (0: before training) -> state, the last one among them.
        chosen: the epoch whose weights are kept, at least 1.
        signs: on the groups of these weights; None where there are none.
        cfg: configuration of the run, which the advice fits.
    """
    state, start, last = states[chosen], states.get(0), max(states)
    suspicions = signs.suspicions(cfg.ISE.APPEARANCE.SCENES) if signs else {}
    estimate = f"of a group's images an estimated {state.purity:.0%} show one person"
    people = "probably" if state.purity >= GOOD else "partly" if state.purity >= MIXED else "probably not"
    if suspicions:
        people = "probably not"
    choice = (
        f"epoch {chosen} of {last} was chosen, because its weights group the most images rightly by the estimate "
        f"({state.right:.0%}; the last epoch {states[last].right:.0%})"
    )
    change = ""
    if start:
        improved = state.right - start.right
        word = "improved" if improved > _NOTICED else "worsened" if improved < -_NOTICED else "did not change"
        before, after = (
            f"an estimated {start.right:.0%} of the images were rightly grouped before",
            f"{state.right:.0%} are now",
        )
        change = f"training {word} the groups: {before}, and {after}"
    advice = _advice(states, state, start, last, bool(suspicions), cfg)
    return Verdict(people, [estimate, *suspicions.values()], choice, change, advice, start, state)


def _advice(states: dict, state: State, start: Optional[State], last: int, suspected: bool, cfg) -> str:
    labels, outliers = cfg.ISE.PSEUDO_LABEL, 1 - state.clustered
    look = "look at the pages in identities/, the safest groups first"
    if suspected:
        return f"{look}, and do what is said above"
    if state.purity < MIXED:
        return "start from weights that have seen people: MODEL.BACKBONE.PRETRAIN_PATH (docs/howto/starting_weights.md)"
    if start and state.right < start.right:
        return "a smaller SOLVER.BASE_LR, because training made the groups worse"
    if last > 1 and state.right - states.get(last - 1, state).right > _NOTICED:
        return f"train longer, because the last epoch still gained: SOLVER.MAX_EPOCH {2 * last}"
    if outliers > _MANY_OUTLIERS:
        fewer = f"ISE.PSEUDO_LABEL.MIN_SAMPLES {labels.MIN_SAMPLES - 1}" if labels.MIN_SAMPLES > 2 else "more epochs"
        return f"{outliers:.0%} of the images are in no group: {fewer}"
    return f"{look}; ise-identities --min-confidence {GOOD} keeps those of which most images show one person"
