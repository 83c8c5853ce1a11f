"""Keras Tuner's oracles, made to keep what they know through any kill and to waste nothing.

What is different from keras-tuner 1.4.8, and why:

- the whole state lies in one file that is written whole or not at all, so that no kill leaves half of it or two parts
  that disagree; a trial that was running is begun again, and no trial is lost;
- a combination that cannot be trained is drawn again before it becomes a trial, and so is one that was tried;
- a failed trial keeps its reason, over the network too, and does not keep Hyperband from going on;
- a network that cannot fit into its worker's memory is skipped: neither a trial of `max_trials` nor a failure;
- a worker that falls silent gives its trial back, and one that has nothing to do waits for that;
- no exception is raised while Keras Tuner's lock is held, since it would never be released.

Imports Keras Tuner, so it is itself imported late. Knows no training.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine.trial import Trial, TrialStatus
from keras_tuner.oracles import BayesianOptimizationOracle, HyperbandOracle, RandomSearchOracle

from tierwave.errors import RunError
from tierwave.files.documents import sealed, unsealed
from tierwave.files.writing import write_text
from tierwave.search.space import MOST_DRAWS, Choices, Range, Space

PLAN = "plan"  # asked for by workers as if it were a trial
# What EndTrial tells among the values of a trial.
REASON, GIVEN_BACK, SKIPPED = "tierwave/reason", "tierwave/given_back", "tierwave/skipped"
FINISHED = (TrialStatus.COMPLETED, TrialStatus.FAILED)
MOST_FAILURES = 5  # one after the other, and the search stops
MOST_SKIPPED = 100  # the same
CANDIDATES = 200  # combinations among which Bayesian search looks where its own proposal is impossible

Say = Callable[[str], None]


def hyperparameters_of(space: Space) -> keras_tuner.HyperParameters:
    """The space as Keras Tuner has it. Choices go as JSON, since it takes only texts, or numbers of one kind."""
    found = keras_tuner.HyperParameters()
    for axis in space.axes:
        if isinstance(axis, Choices):
            found.Choice(axis.key, [json.dumps(value) for value in axis.values], ordered=False)
        elif axis.whole:
            found.Int(axis.key, axis.lo, axis.hi, sampling="log" if axis.log else "linear")
        else:
            found.Float(axis.key, axis.lo, axis.hi, sampling="log" if axis.log else "linear")
    return found


def values_of(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a trial by key, as they stand in a config."""
    return {
        axis.key: json.loads(values[axis.key]) if isinstance(axis, Choices) else axis.rounded(values[axis.key])
        for axis in space.axes
    }


def shown(values: Mapping[str, Any]) -> str:
    """`dim=64, rnn_type=gru`, the training options by their plain names."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return ", ".join(f"{key.removeprefix('training.')}={text}" for key, text in texts.items())


class Careful(keras_tuner.Oracle):
    """What every oracle of Tierwave does beside Keras Tuner's. `begin` comes before anything else."""

    space: Space
    ongoing_trials: dict[str, Trial]
    fault: Exception | None = None
    closed: str | None = None
    exhausted = False  # there is no further trial

    def begin(self, space: Space, path: Path, plan: dict[str, Any], say: Say, *, silence: float, shared: bool) -> None:
        """Take up the search in the file `path`, or begin it. plan: what it is, for workers and for who reads the file.
        silence: seconds without a word after which a worker counts as dead. shared: whether there are workers.

        Raises RunError for a file that is damaged.
        """
        self.space, self.path, self.plan, self.say = space, path, plan, say
        self.silence, self.deadline = silence, math.inf
        self.heard: dict[str, float] = {}  # when a worker, or the trial of one, was last heard of
        self.refused: dict[str, str] = {}  # impossible combinations and why
        self.failures = self.skips = 0
        self.skipped: set[str] = set()  # trials, by their numbers
        self.verbose = 0
        if path.exists():
            self._take_up(shared)

    # --- the file -----------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write everything to the file."""
        document = {
            "plan": self.plan,
            "oracle": self.get_state(),
            "skipped": sorted(self.skipped),
            "trials": [trial.get_state() for trial in self.trials.values()],
        }
        write_text(self.path, json.dumps(sealed(document)) + "\n")

    def _save_trial(self, trial: Trial) -> None:
        self.save()

    def _take_up(self, shared: bool) -> None:
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
        self.verbose = 0
        if self.max_trials is not None:
            self.max_trials += len(self.skipped)
        running = {name: trial for name, trial in self.trials.items() if trial.status not in FINISHED}
        before = self.ongoing_trials if shared else {}  # their workers may still be at them
        self.ongoing_trials = {
            tuner: running.pop(trial.trial_id) for tuner, trial in before.items() if trial.trial_id in running
        }
        self.heard = {name: time.monotonic() for name in self.ongoing_trials}
        self._retry_queue = sorted(running, reverse=True)  # the last of it is the next

    # --- trials -------------------------------------------------------------------------------------------------

    def create_trial(self, tuner_id: str) -> Trial:
        """The next trial; one of the status IDLE for a worker that shall ask again, STOPPED for one that shall end."""
        self.heard[tuner_id] = time.monotonic()
        if self.is_closed:
            self.tuner_ids.discard(tuner_id)
            return Trial(self.hyperparameters.copy(), trial_id="", status=TrialStatus.STOPPED)
        try:
            again = tuner_id in self.ongoing_trials or bool(self._retry_queue)
            trial = super().create_trial(tuner_id)
        except Exception as error:
            self.fault = error
            raise
        if trial.status == TrialStatus.RUNNING:
            self.heard[trial.trial_id] = time.monotonic()
            values = shown(values_of(self.space, trial.hyperparameters.values))
            self.say(f"Trial {trial.trial_id}{' again' if again else ''}: {values}{self._part(trial)}")
        elif trial.status == TrialStatus.STOPPED:
            self.exhausted = not self.ongoing_trials
            if self.ongoing_trials:  # one of them may yet be given back
                trial.status = TrialStatus.IDLE
                self.tuner_ids.add(tuner_id)
        return trial

    @staticmethod
    def _part(trial: Trial) -> str:
        values = trial.hyperparameters.values
        if "tuner/epochs" not in values:
            return ""
        before = f" on from trial {values['tuner/trial_id']}" if values.get("tuner/trial_id") else ""
        return f" ({values['tuner/epochs']} epochs{before})"

    def end_trial(self, trial: Trial) -> None:
        """Note how a trial ended: by its results, by a reason, or given back."""
        told = trial.hyperparameters.values
        reason, given_back = told.pop(REASON, None), told.pop(GIVEN_BACK, False)
        skipped = told.pop(SKIPPED, False)
        try:
            if given_back or self.trials[trial.trial_id].status in FINISHED:  # two workers had it
                self._give_back(trial.trial_id)
            else:
                if trial.trial_id in self._retry_queue:
                    self._retry_queue.remove(trial.trial_id)
                trial.message = reason
                if skipped:
                    self._skip(trial.trial_id)
                super().end_trial(trial)
                self._told(self.trials[trial.trial_id])
        except Exception as error:
            self.fault = error
            raise

    def _skip(self, trial_id: str) -> None:
        """Have another trial take the place of one that is not trained."""
        self.skipped.add(trial_id)
        if self.max_trials is not None:
            self.max_trials += 1

    def _told(self, trial: Trial) -> None:
        if trial.trial_id in self.skipped:
            self.skips += 1
            self.say(f"Trial {trial.trial_id} is skipped: {trial.message}")
            if self.skips >= MOST_SKIPPED:
                self.closed = f"{self.skips} networks one after the other do not fit into memory"
            return
        self.skips = 0
        if trial.status != TrialStatus.COMPLETED:
            self.failures += 1
            self.say(f"Trial {trial.trial_id} failed: {trial.message}")
            if self.too_many_failures:
                self.closed = f"{self.failures} trials failed one after the other"
            return
        self.failures = 0
        best = self.best
        assert best is not None
        so_far = "the best so far" if best is trial else f"the best so far is {best.score:.5g} of trial {best.trial_id}"
        self.say(f"Trial {trial.trial_id} ended: {self.objective.name} {trial.score:.5g}, {so_far}")

    @property
    def too_many_failures(self) -> bool:
        """Whether so many trials failed one after the other that something else than they must be wrong."""
        return self.failures >= MOST_FAILURES

    @property
    def best(self) -> Trial | None:
        """The best trial that ended well, None if none did (Keras Tuner would name one that failed)."""
        ended = [trial for trial in self.trials.values() if trial.status == TrialStatus.COMPLETED]
        sign = -1.0 if self.objective.direction == "max" else 1.0
        return min(ended, key=lambda trial: sign * trial.score, default=None)

    @property
    def is_closed(self) -> bool:
        """Whether no trial is begun any more: time is up, or too many failed."""
        if self.closed is None and time.monotonic() >= self.deadline:
            self.closed = "its time is over"
        return self.closed is not None

    @keras_tuner.synchronized
    def _give_back(self, trial_id: str) -> None:
        self.ongoing_trials = {
            tuner: trial for tuner, trial in self.ongoing_trials.items() if trial.trial_id != trial_id
        }
        if self.trials[trial_id].status not in FINISHED and trial_id not in self._retry_queue:
            self._retry_queue.append(trial_id)
        self.save()

    # --- workers ------------------------------------------------------------------------------------------------

    def get_trial(self, trial_id: str) -> Trial:
        """A trial by its number, by which its worker also says that it is alive; and the plan of the search."""
        if trial_id == PLAN:
            told = keras_tuner.HyperParameters()
            left = None if math.isinf(self.deadline) else max(self.deadline - time.monotonic(), 0.0)
            told.values = {PLAN: json.dumps({**self.plan, "seconds": left})}
            return Trial(told, trial_id=PLAN)
        self.heard[trial_id] = time.monotonic()
        return self.trials[trial_id]

    def give_back_of_the_silent(self) -> None:
        """Take trials from workers that have not been heard of for long, for others to go on with."""
        since = time.monotonic() - self.silence
        for tuner, trial in list(self.ongoing_trials.items()):
            if max(self.heard.get(tuner, 0.0), self.heard.get(trial.trial_id, 0.0)) < since:
                self.say(f"Trial {trial.trial_id} is given back: nothing was heard of {tuner} for {self.silence:g} s.")
                self._give_back(trial.trial_id)
                self.tuner_ids.discard(tuner)
        for tuner in list(self.tuner_ids - self.ongoing_trials.keys()):
            if self.heard.get(tuner, 0.0) < since:
                self.tuner_ids.discard(tuner)

    @property
    def is_over(self) -> bool:
        """Whether no trial runs and none will."""
        if self.ongoing_trials:
            return False
        full = self.max_trials is not None and len(self.trials) >= self.max_trials
        return self.is_closed or self.exhausted or (full and not self._retry_queue)

    # --- values -------------------------------------------------------------------------------------------------

    def _is_new(self, values: dict[str, Any]) -> bool:
        """Whether values make a config that can be trained and was not tried."""
        if self._duplicate(values):
            return False
        plain = values_of(self.space, values)
        refusal = self.space.refusal_of(plain)
        if refusal is not None:
            self.refused.setdefault(json.dumps(plain), refusal)
        return refusal is None

    def _tidy(self, values: dict[str, Any]) -> dict[str, Any]:
        ranges = {axis.key: axis for axis in self.space.axes if isinstance(axis, Range)}
        return {key: ranges[key].rounded(value) if key in ranges else value for key, value in values.items()}

    def _random_values(self) -> dict[str, Any] | None:
        """Values that are new, drawn at random; None where the space seems to hold none. The same for the same seed."""
        for _ in range(MOST_DRAWS):
            values = {}
            for parameter in self.hyperparameters.space:
                values[parameter.name] = parameter.random_sample(self._seed_state)
                self._seed_state += 1
            values = self._tidy(values)
            if self._is_new(values):
                return values
        return None


class RandomSearch(Careful, RandomSearchOracle):
    """Combinations drawn at random."""


class Bayesian(Careful, BayesianOptimizationOracle):
    """Keras Tuner's Gaussian process; where its proposal is impossible or was tried, the best of others by it."""

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        # Its own generator is not in its state: a search that was resumed would go another way.
        self._random_state = np.random.RandomState((self.seed + len(self.trials)) % 2**32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's, about bounds of a kernel
            try:
                proposal = super().populate_space(trial_id)
            except (ValueError, np.linalg.LinAlgError):  # a kernel that cannot be fitted
                proposal = self._random_populate_space()
            if proposal["status"] != TrialStatus.RUNNING:
                return proposal
            tidy = self._tidy(proposal["values"])
            values = tidy if self._is_new(tidy) else self._best_of_others()
        if values is None:
            return {"status": TrialStatus.STOPPED, "values": None}
        return {"status": TrialStatus.RUNNING, "values": values}

    def _best_of_others(self) -> dict[str, Any] | None:
        drawn: dict[str, dict[str, Any]] = {}
        for _ in range(CANDIDATES):
            values = self._random_values()
            if values is None:
                return None
            drawn[json.dumps(values)] = values
        found = list(drawn.values())
        vectors = [[axis.value_to_prob(each[axis.name]) for axis in self._nonfixed_space()] for each in found]
        mean, deviation = self.gpr.predict(np.array(vectors), return_std=True)
        return found[int(np.argmin(mean - self.beta * deviation))]


class Hyperband(Careful, HyperbandOracle):
    """Successive halving (Li et al. 2018) with Keras Tuner's brackets.

    Keras Tuner waits for ever for as many good trials as a round should have, so that it never halves where some
    failed, or where the space holds fewer. Here a failed trial counts as the worst, and a round is as large as it can
    be.
    """

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        while True:
            for bracket in self._brackets:
                values = self._first_round(bracket, trial_id) or self._promoted(bracket, trial_id)
                if values is not None:
                    return {"status": TrialStatus.RUNNING, "values": values}
            if self._current_bracket == 0 and self._current_iteration + 1 >= self.hyperband_iterations:
                status = TrialStatus.IDLE if self.ongoing_trials else TrialStatus.STOPPED
                return {"status": status, "values": None}
            self._increment_bracket_num()
            self._start_new_bracket()

    def _skip(self, trial_id: str) -> None:
        super()._skip(trial_id)
        for bracket in self._brackets:
            first = bracket["rounds"][0]
            first[:] = [entry for entry in first if entry["id"] != trial_id]

    def _first_round(self, bracket: dict[str, Any], trial_id: str) -> dict[str, Any] | None:
        number, first = bracket["bracket_num"], bracket["rounds"][0]
        if bracket.get("exhausted") or len(first) >= self._get_size(number, 0):
            return None
        values = self._random_values()
        if values is None:
            bracket["exhausted"] = True
            return None
        first.append({"past_id": None, "id": trial_id})
        return {**values, **self._epochs(number, 0)}

    def _promoted(self, bracket: dict[str, Any], trial_id: str) -> dict[str, Any] | None:
        """The values of a trial that is surely among those that go on, if there is one by now."""
        number, rounds = bracket["bracket_num"], bracket["rounds"]
        expected = len(rounds[0]) if bracket.get("exhausted") else self._get_size(number, 0)
        sign = -1.0 if self.objective.direction == "max" else 1.0
        for place in range(1, len(rounds)):
            before = [self.trials[entry["id"]] for entry in rounds[place - 1]]
            taken = {entry["past_id"] for entry in rounds[place]}
            ended = [trial for trial in before if trial.status in FINISHED and trial.trial_id not in taken]
            good = [trial for trial in ended if trial.status == TrialStatus.COMPLETED]
            going_on = min(self._get_size(number, place), max(1, math.ceil(expected / self.factor)))
            if good and len(taken) < going_on and len(ended) > expected - going_on:
                best = min(good, key=lambda trial: sign * trial.score)
                rounds[place].append({"past_id": best.trial_id, "id": trial_id})
                return {
                    **best.hyperparameters.values,
                    **self._epochs(number, place),
                    "tuner/trial_id": best.trial_id,
                }
            failed = sum(trial.status == TrialStatus.FAILED for trial in before)
            expected = min(going_on, expected - failed)
        return None

    def _epochs(self, bracket: int, place: int) -> dict[str, int]:
        before = 0 if place == 0 else self._get_epochs(bracket, place - 1)
        told = {"epochs": self._get_epochs(bracket, place), "initial_epoch": before, "bracket": bracket, "round": place}
        return {f"tuner/{name}": value for name, value in told.items()}

    @property
    def plan_of_trials(self) -> tuple[int, int]:
        """How many trials there will be at most, and how many epochs in all."""
        trials = epochs = 0
        for bracket in range(self._get_num_brackets()):
            for place in range(self._get_num_rounds(bracket)):
                before = self._get_epochs(bracket, place - 1) if place else 0
                trials += self._get_size(bracket, place)
                epochs += self._get_size(bracket, place) * (self._get_epochs(bracket, place) - before)
        return trials, epochs


def make_oracle(
    kind: str, space: Space, objective: tuple[str, str], *, max_trials: int | None, max_epochs: int, seed: int
) -> Any:
    """The oracle of `--type`; objective: name and direction, "min" or "max"."""
    settings: dict[str, Any] = {
        "objective": keras_tuner.Objective(*objective),
        "hyperparameters": hyperparameters_of(space),
        "seed": seed + 1,  # it takes 0 for none
        "max_consecutive_failed_trials": None,
    }
    if kind == "hyperband":
        oracle = Hyperband(max_epochs=max_epochs, **settings)
        oracle.max_trials = max_trials
        return oracle
    if kind == "random_search":
        return RandomSearch(max_trials=max_trials, **settings)
    axes = len(space.axes)
    first = max(3, min(3 * axes, (max_trials or 3 * axes) // 2))  # Keras Tuner's 3 per key would often be all there are
    return Bayesian(max_trials=max_trials, num_initial_points=first, **settings)
