"""Which values are tried next: oracles on Keras Tuner's documented points, `populate_space`, `create_trial`,
`end_trial`, `get_trial`, `save` and `reload`.

They differ from Keras Tuner's own in this:

- The whole state lies in one file that is written whole or not at all. A trial that was running when the search was
  killed is begun again, with the same values.
- All random draws follow from the seed and the trials so far, so that a resumed search goes the same way.
- Values that no network can have, or that were tried, are drawn again before they become a trial.
- Failed trials do not stop Hyperband from promoting the others.
- A network that does not fit into its worker's memory is skipped: neither one of `max_trials` nor a failure.
- A worker that falls silent loses its trial to another one; a worker without work waits for that.

Imports Keras Tuner, so it is itself imported late.
"""

from __future__ import annotations

import copy
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine.trial import Trial, TrialStatus
from keras_tuner.oracles import BayesianOptimizationOracle, HyperbandOracle

from tierwave.errors import RunError
from tierwave.files.documents import sealed, unsealed
from tierwave.files.writing import write_text
from tierwave.search.plan import TRIALS, Plan
from tierwave.search.space import MOST_DRAWS, Choices, Space

FINISHED = (TrialStatus.COMPLETED, TrialStatus.FAILED)
MOST_FAILURES = 5  # consecutive failures after which the search stops
MOST_SKIPPED = 100  # consecutive skipped networks after which the search stops
MOST_PROPOSALS = 4  # proposals of Bayesian search for one trial before values are drawn at random

Say = Callable[[str], None]
Values = dict[str, Any]


def hyperparameters_of(space: Space) -> keras_tuner.HyperParameters:
    """The space for Keras Tuner. Choices are JSON, since it takes only texts, or numbers of one type."""
    found = keras_tuner.HyperParameters()
    for axis in space.axes:
        if isinstance(axis, Choices):
            found.Choice(axis.key, [json.dumps(value) for value in axis.values], ordered=False)
        else:
            number = found.Int if axis.whole else found.Float
            number(axis.key, axis.lo, axis.hi, sampling="log" if axis.log else "linear")
    return found


def values_of(space: Space, values: Mapping[str, Any]) -> Values:
    """The values of a trial by key, as they stand in a config."""
    return {
        axis.key: json.loads(values[axis.key]) if isinstance(axis, Choices) else axis.rounded(values[axis.key])
        for axis in space.axes
    }


def shown(values: Mapping[str, Any]) -> str:
    """`dim=64, rnn_type=gru`, training options by their plain names."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return ", ".join(f"{key.removeprefix('training.')}={text}" for key, text in texts.items())


class RandomSearch(keras_tuner.Oracle):
    """Values drawn at random, and what all oracles share.

    path: the file of the search, which is resumed if it exists; silence: seconds without a word after which a worker
    counts as dead; shared: there are workers beside this process. Raises RunError if the file is damaged.
    """

    ongoing_trials: dict[str, Trial]

    def __init__(
        self,
        plan: Plan,
        path: Path,
        say: Say,
        *,
        max_trials: int | None,
        silence: float = math.inf,
        shared: bool = False,
    ):
        super().__init__(
            objective=keras_tuner.Objective(*plan.goal),
            max_trials=max_trials,
            hyperparameters=hyperparameters_of(plan.space),
            seed=plan.random_seed + 1,  # 0 would mean none
            max_consecutive_failed_trials=None,
        )
        self.plan, self.space, self.path, self.say = plan, plan.space, path, say
        self.silence, self.shared, self.deadline = silence, shared, math.inf
        self.heard: dict[str, float] = {}  # when a worker, or the worker of a trial, was last heard of
        self.refused: dict[str, str] = {}  # impossible combinations and the reasons
        self.skipped: set[str] = set()  # numbers of trials
        self.failures = self.skips = self.draws = 0
        self.closed: str | None = None  # why no further trial is begun
        self.no_more = False  # values that were not tried
        self.exhausted = False  # there is no further trial
        self.fault: OSError | None = None  # the file could not be written
        if path.exists():
            self.reload()
        self.verbose = 0

    # The file --------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write plan, state and trials to the file.

        An error is stored instead of raised, since Keras Tuner would never release its lock; no trial is begun then.
        """
        document = {
            "plan": self.plan.document(),
            "oracle": self.get_state(),
            "skipped": sorted(self.skipped),
            "trials": [trial.get_state() for trial in self.trials.values()],
        }
        try:
            write_text(self.path, json.dumps(sealed(document)) + "\n")
        except OSError as error:
            self.fault, self.closed = error, f"{self.path} could not be written"

    def reload(self) -> None:
        """Resume the search in the file."""
        try:
            document = unsealed(self.path.read_bytes())
            self.trials = {trial.trial_id: trial for trial in map(Trial.from_state, document["trials"])}
            self.set_state(document["oracle"])
            self.skipped = set(document.get("skipped", [])) & self.trials.keys()
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{self.path} is damaged ({error!r}): its trials are still there, but a search has to start over, with "
                "another --id or --resume False"
            ) from None
        if self.max_trials is not None:
            self.max_trials += len(self.skipped)
        # Workers may still be training their trials; a process of its own has ended with its trial.
        self.ongoing_trials = {
            tuner: trial for tuner, trial in self.ongoing_trials.items() if self.shared and trial.status not in FINISHED
        }
        self.heard = {tuner: time.monotonic() for tuner in self.ongoing_trials}

    # Trials ----------------------------------------------------------------------------------------------------

    @keras_tuner.synchronized
    def create_trial(self, tuner_id: str) -> Trial:
        """The next trial: its status is IDLE for a worker that should ask again, STOPPED for one that should end."""
        self.heard[tuner_id] = time.monotonic()
        waiting = self.waiting
        again = tuner_id in self.ongoing_trials or bool(waiting)
        if self.is_closed:
            trial = self._empty(TrialStatus.STOPPED)
        elif waiting and tuner_id not in self.ongoing_trials:
            trial = self.ongoing_trials[tuner_id] = waiting[0]
            self.save()
        else:
            trial = super().create_trial(tuner_id)
            if trial.status == TrialStatus.STOPPED:
                self.exhausted = not self.ongoing_trials
                if self.ongoing_trials:  # one of them may yet be given back
                    trial.status = TrialStatus.IDLE
        if self.fault is not None:
            self.ongoing_trials.pop(tuner_id, None)
            trial = self._empty(TrialStatus.STOPPED)
        if trial.status == TrialStatus.STOPPED:
            self.tuner_ids.discard(tuner_id)
            return trial
        self.tuner_ids.add(tuner_id)
        if trial.status == TrialStatus.RUNNING:
            self.heard[trial.trial_id] = time.monotonic()
            self.say(f"Trial {trial.trial_id}{' again' if again else ''}: {self._described(trial)}")
        return Trial.from_state(trial.get_state())  # a tuner changes the status of what it receives

    def _empty(self, status: str) -> Trial:
        return Trial(self.get_space(), trial_id="", status=status)

    def _described(self, trial: Trial) -> str:
        values = trial.hyperparameters.values
        text = shown(values_of(self.space, values))
        if "tuner/epochs" not in values:
            return text
        before = f" on from trial {values['tuner/trial_id']}" if values.get("tuner/trial_id") else ""
        return f"{text} ({values['tuner/epochs']} epochs{before})"

    @property
    def waiting(self) -> list[Trial]:
        """Trials that were begun, have not ended, and that nobody trains."""
        ongoing = {trial.trial_id for trial in self.ongoing_trials.values()}
        return [
            trial for trial in self.trials.values() if trial.status not in FINISHED and trial.trial_id not in ongoing
        ]

    @keras_tuner.synchronized
    def end_trial(self, trial: Trial) -> None:
        """Note how a trial ended: COMPLETED, FAILED, INVALID (it cannot fit into memory) or, given back, RUNNING."""
        known = self.trials[trial.trial_id]
        if trial.status == TrialStatus.RUNNING or known.status in FINISHED:  # finished: two workers had it
            self._give_back(trial.trial_id)
            return
        if trial.status != TrialStatus.COMPLETED and trial.message is None:
            trial.message = self.reason_of(trial.trial_id)
        if trial.status == TrialStatus.INVALID:
            self.skipped.add(trial.trial_id)
            if self.max_trials is not None:
                self.max_trials += 1  # another trial takes its place
        super().end_trial(trial)
        self._say_how_it_ended(known)

    def reason_of(self, trial_id: str) -> str:
        """Why a worker's trial failed: Keras Tuner's protocol does not carry it, a shared folder does."""
        try:
            return str(unsealed((self.path.parent / TRIALS / trial_id / "failure.json").read_bytes())["reason"])
        except (OSError, ValueError, KeyError):
            return "its worker printed the reason"

    def _say_how_it_ended(self, trial: Trial) -> None:
        if trial.status == TrialStatus.COMPLETED:
            self.failures = self.skips = 0
            best = self.best
            assert best is not None
            rank = f"the best so far is {best.score:.5g} of trial {best.trial_id}"
            rank = "the best so far" if best is trial else rank
            self.say(f"Trial {trial.trial_id} ended: {self.objective.name} {trial.score:.5g}, {rank}")
        elif trial.trial_id in self.skipped:
            self.skips += 1
            self.say(f"Trial {trial.trial_id} is skipped: {trial.message}")
            if self.skips >= MOST_SKIPPED:
                self.closed = f"{self.skips} networks one after the other do not fit into memory"
        else:
            self.skips, self.failures = 0, self.failures + 1
            self.say(f"Trial {trial.trial_id} failed: {trial.message}")
            if self.too_many_failures:
                self.closed = f"{self.failures} trials failed one after the other"

    @property
    def too_many_failures(self) -> bool:
        """Whether so many trials failed one after the other that something else must be wrong."""
        return self.failures >= MOST_FAILURES

    @property
    def best(self) -> Trial | None:
        """The best trial that completed, None if none did."""
        return next((each for each in self.get_best_trials() if each.status == TrialStatus.COMPLETED), None)

    @property
    def is_closed(self) -> bool:
        """Whether no trial is begun any more."""
        if self.closed is None and time.monotonic() >= self.deadline:
            self.closed = "its time is over"
        return self.closed is not None

    @property
    def is_over(self) -> bool:
        """Whether no trial runs and none will."""
        full = self.max_trials is not None and len(self.trials) >= self.max_trials
        return not self.ongoing_trials and (self.is_closed or self.exhausted or (full and not self.waiting))

    # Workers ---------------------------------------------------------------------------------------------------

    def get_trial(self, trial_id: str) -> Trial:
        """A trial by its number, by which its worker says that it is alive; STOPPED once the search's time is over."""
        self.heard[trial_id] = time.monotonic()
        trial = Trial.from_state(self.trials[trial_id].get_state())
        if trial.status == TrialStatus.RUNNING and time.monotonic() >= self.deadline:
            trial.status = TrialStatus.STOPPED
        return trial

    def give_back_of_the_silent(self) -> None:
        """Take trials from workers that have been silent for too long, for others to continue."""
        since = time.monotonic() - self.silence
        for tuner, trial in list(self.ongoing_trials.items()):
            if max(self.heard.get(tuner, 0.0), self.heard.get(trial.trial_id, 0.0)) < since:
                self.say(f"Trial {trial.trial_id} is given back: nothing was heard of {tuner} for {self.silence:g} s.")
                self._give_back(trial.trial_id)
                self.tuner_ids.discard(tuner)
        for tuner in list(self.tuner_ids - self.ongoing_trials.keys()):
            if self.heard.get(tuner, 0.0) < since:
                self.tuner_ids.discard(tuner)

    @keras_tuner.synchronized
    def _give_back(self, trial_id: str) -> None:
        ongoing = self.ongoing_trials.items()
        self.ongoing_trials = {tuner: trial for tuner, trial in ongoing if trial.trial_id != trial_id}
        self.save()

    # Values ----------------------------------------------------------------------------------------------------

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The values of a new trial, or STOPPED if there are none."""
        return self.proposal(self.new_values())

    @staticmethod
    def proposal(values: Values | None) -> dict[str, Any]:
        """What `populate_space` returns."""
        return {"status": TrialStatus.STOPPED if values is None else TrialStatus.RUNNING, "values": values}

    def new_values(self) -> Values | None:
        """New values drawn at random, the same for the same seed and trials; None if the space seems to hold none."""
        if self.no_more:
            return None
        tried = self.tried
        for _ in range(MOST_DRAWS):
            drawn = {}
            for parameter in self.hyperparameters.space:
                drawn[parameter.name] = parameter.random_sample(self.seed + self.draws)
                self.draws += 1
            values = self.accepted(drawn, tried)
            if values is not None:
                return values
        self.no_more = True
        return None

    @property
    def tried(self) -> set[str]:
        """The values of all trials, as JSON."""
        return {json.dumps(values_of(self.space, trial.hyperparameters.values)) for trial in self.trials.values()}

    def accepted(self, values: Values, tried: Set[str]) -> Values | None:
        """The values with their numbers rounded, None if they cannot be trained or were tried."""
        plain = values_of(self.space, values)
        text = json.dumps(plain)
        refusal = None if text in tried else self.space.refusal_of(plain)
        if refusal is not None:
            self.refused.setdefault(text, refusal)
        if refusal is not None or text in tried:
            return None
        return {
            axis.key: values[axis.key] if isinstance(axis, Choices) else plain[axis.key] for axis in self.space.axes
        }


class Bayesian(RandomSearch):
    """Keras Tuner's Gaussian process, after `first` trials at random.

    Its oracle is created for each proposal, with a seed of its own: its generator is not part of its state. Trials
    that still run, and proposals that cannot be trained or were tried, count as bad as the worst trial (a "constant
    liar", Ginsbourger et al. 2010), so that it looks elsewhere; after `MOST_PROPOSALS` values are drawn at random.
    """

    def __init__(self, plan: Plan, *arguments: Any, max_trials: int | None, **settings: Any):
        axes = len(plan.space.axes)
        # Keras Tuner's 3 for each key would often be all the trials.
        self.first = max(3, min(3 * axes, (max_trials or 3 * axes) // 2))
        super().__init__(plan, *arguments, max_trials=max_trials, **settings)

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The values that the Gaussian process expects most of."""
        known = {name: trial for name, trial in self.trials.items() if trial.status != TrialStatus.FAILED}
        scores = [trial.score for trial in known.values() if trial.status == TrialStatus.COMPLETED]
        if len(scores) < self.first:
            return super().populate_space(trial_id)
        worst = max(scores, key=lambda score: self.plan.sign * score)
        for name, trial in known.items():
            if trial.status != TrialStatus.COMPLETED:
                known[name] = as_completed(trial, worst)
        for number in range(MOST_PROPOSALS):
            engine = BayesianOptimizationOracle(
                objective=self.objective,
                hyperparameters=self.get_space(),
                num_initial_points=1,
                seed=self.seed + MOST_PROPOSALS * len(self.trials) + number,
            )
            engine.trials = known
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # scikit-learn's, about bounds of a kernel
                    proposed = engine.populate_space(trial_id)["values"]
            except (ValueError, np.linalg.LinAlgError):  # the kernel cannot be fitted
                break
            values = self.accepted(proposed, self.tried)
            if values is not None:
                return self.proposal(values)
            refused = Trial(self.get_space())
            refused.hyperparameters.values = proposed
            known[f"refused {number}"] = as_completed(refused, worst)
        return super().populate_space(trial_id)


class Hyperband(RandomSearch):
    """Successive halving (Li et al. 2018) by Keras Tuner's oracle, whose random values are replaced.

    That oracle waits for as many completed trials as a round should have, so it would never halve where trials failed
    or the space is small. So a failed trial is shown to it as the worst one; and where it asks for new values in a
    space that has no more, or promotes a failed trial, its place is filled by a gap, which counts as a failed trial.
    """

    def __init__(self, plan: Plan, *arguments: Any, **settings: Any):
        self.engine = HyperbandOracle(
            keras_tuner.Objective(*plan.goal), plan.num_epochs, hyperparameters=hyperparameters_of(plan.space)
        )
        super().__init__(plan, *arguments, **settings)

    def get_state(self) -> dict[str, Any]:
        """Keras Tuner's state, and that of its Hyperband."""
        return {**super().get_state(), "hyperband": self.engine.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """What `get_state` returned."""
        super().set_state(state)
        self.engine.set_state({**state["hyperband"], "ongoing_trials": {}})

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The values of a trial that is promoted, or of a new one."""
        worst = self.plan.sign * math.inf
        failed = {name: trial for name, trial in self.trials.items() if trial.status == TrialStatus.FAILED}
        shown_trials = self.trials | {name: as_completed(trial, worst) for name, trial in failed.items()}
        while True:
            state = copy.deepcopy({**self.engine.get_state(), "ongoing_trials": {}})
            for bracket in state["brackets"]:  # the place of a skipped network is free again
                bracket["rounds"][0] = [entry for entry in bracket["rounds"][0] if entry["id"] not in self.skipped]
            entries = [entry["id"] for bracket in state["brackets"] for place in bracket["rounds"] for entry in place]
            gaps = [name for name in entries if name.startswith("gap ")]
            gap_trials = {gap: as_completed(Trial(self.get_space(), gap), worst) for gap in gaps}
            self.engine.trials = shown_trials | gap_trials
            self.engine.set_state(copy.deepcopy(state))
            values = self.engine.populate_space(trial_id).get("values")
            if values is None:
                return self.proposal(None)
            past = values.get("tuner/trial_id")
            if past is None:
                drawn = self.new_values()
                if drawn is not None:
                    return self.proposal(values | drawn)
            elif past not in failed and past not in gaps:
                return self.proposal({**values, "tuner/trial_id": run_of(self.trials[past])})
            self.engine.set_state(state)
            self.engine.populate_space(f"gap {1 + max((int(gap[4:]) for gap in gaps), default=0)}")


def as_completed(trial: Trial, score: float) -> Trial:
    """A trial as if it had completed with `score`, to be shown to an oracle of Keras Tuner."""
    shown_trial = Trial(trial.hyperparameters, trial.trial_id, TrialStatus.COMPLETED)
    shown_trial.score = score
    return shown_trial


def run_of(trial: Trial) -> str:
    """The number of the trial in whose run a trial goes on; its own unless Hyperband promoted it."""
    return str(trial.hyperparameters.values.get("tuner/trial_id") or trial.trial_id)


def hyperband_size(max_epochs: int) -> tuple[int, int]:
    """How many trials Hyperband has at most, and how many epochs in all."""
    space = keras_tuner.HyperParameters()
    space.Float("any", 0.0, 1.0)
    engine = HyperbandOracle("val_loss", max_epochs, hyperparameters=space)
    epochs = 0
    while values := engine.populate_space(str(len(engine.trials))).get("values"):
        epochs += values["tuner/epochs"] - values["tuner/initial_epoch"]
        trial = Trial(space.copy(), str(len(engine.trials)))
        trial.hyperparameters.values = values
        engine.trials[trial.trial_id] = as_completed(trial, 0.0)
    return len(engine.trials), epochs


def make_oracle(plan: Plan, *arguments: Any, **settings: Any) -> RandomSearch:
    """The oracle of `--type`; the arguments are those of `RandomSearch`."""
    return {"random_search": RandomSearch, "bayesian": Bayesian, "hyperband": Hyperband}[plan.type](
        plan, *arguments, **settings
    )
