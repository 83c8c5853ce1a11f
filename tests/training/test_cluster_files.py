"""What docs/cluster/ gives to the machines of others: the RayJob against KubeRay's schema, the Slurm script as bash."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import train

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "cluster"


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


TEXT = {"type": "string"}
WHOLE = {"type": "integer", "minimum": 0}
QUANTITY = {
    "type": "object",
    "additionalProperties": {"type": "string", "pattern": r"^(\d+(\.\d*)?|\.\d+)([KMGTPE]i|[numkMGTPE])?$"},
}
LABELS = {"type": "object", "additionalProperties": TEXT}
CONTAINER = closed(
    ["name", "image"],
    name=TEXT,
    image=TEXT,
    env={"type": "array", "items": closed(["name"], name=TEXT, value=TEXT)},
    resources=closed([], requests=QUANTITY, limits=QUANTITY),
    volumeMounts={"type": "array", "items": closed(["name", "mountPath"], name=TEXT, mountPath=TEXT)},
)
CLAIMED = closed(
    ["name", "persistentVolumeClaim"], name=TEXT, persistentVolumeClaim=closed(["claimName"], claimName=TEXT)
)
POD = closed(
    ["spec"],
    metadata={"type": "object"},
    spec=closed(
        ["containers"],
        containers={"type": "array", "minItems": 1, "items": CONTAINER},
        volumes={"type": "array", "items": CLAIMED},
    ),
)
# The part of the RayJob of ray.io/v1 (KubeRay 1.6) that the manifest uses, closed, so that no field is misspelt.
RAYJOB = closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=closed(["name"], name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}),
    spec=closed(
        ["entrypoint", "rayClusterSpec"],
        entrypoint=TEXT,
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=WHOLE,
        backoffLimit=WHOLE,
        rayClusterSpec=closed(
            ["headGroupSpec"],
            rayVersion=TEXT,
            authOptions=closed([], mode={"enum": ["disabled", "token"]}),
            headGroupSpec=closed(["template"], rayStartParams=LABELS, template=POD),
            workerGroupSpecs={
                "type": "array",
                "items": closed(
                    ["groupName", "template", "minReplicas", "maxReplicas"],
                    groupName=TEXT,
                    replicas=WHOLE,
                    minReplicas=WHOLE,
                    maxReplicas=WHOLE,
                    rayStartParams=LABELS,
                    template=POD,
                ),
            },
        ),
    ),
)


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "rayjob.yaml").read_text(encoding="utf-8"))


def test_the_ray_job_fits_its_schema(job: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(RAYJOB)
    jsonschema.validate(job, RAYJOB)


@pytest.mark.parametrize("damage", ["field", "quantity", "parameter"])
def test_the_schema_sees_what_is_wrong(job: dict[str, Any], damage: str) -> None:
    cluster = yaml.safe_load(yaml.safe_dump(job["spec"]["rayClusterSpec"]))
    if damage == "field":
        cluster["workerGroupSpec"] = cluster.pop("workerGroupSpecs")
    elif damage == "quantity":
        cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] = "8 GB"
    else:
        cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**job, "spec": {**job["spec"], "rayClusterSpec": cluster}}, RAYJOB)


def test_the_ray_job_has_as_many_workers_as_it_trains_on(job: dict[str, Any]) -> None:
    program, *words = shlex.split(job["spec"]["entrypoint"])
    assert program == "tierwave-train"
    arguments = train.parser().parse_args(words)
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert arguments.num_workers == sum(group["replicas"] for group in groups)
    assert all(group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] for group in groups)
    mounted = [mount["mountPath"] for mount in groups[0]["template"]["spec"]["containers"][0]["volumeMounts"]]
    for place in (arguments.data_dir, arguments.logdir_root, arguments.output_dir):
        assert any(str(place).startswith(path + "/") for path in mounted)


def test_the_slurm_script_is_bash_and_its_command_is_ours() -> None:
    script = FOLDER / "slurm.sh"
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = script.read_text(encoding="utf-8")
    directives = re.findall(r"^#SBATCH (--[a-z-]+)=?", text, re.MULTILINE)
    assert "--nodes" in directives
    flags = {word for word in re.findall(r"(?<= )--[a-z_]+", text.replace("\\\n", " ")) if "_" in word}
    known = {option for action in train.parser()._actions for option in action.option_strings}
    assert flags and flags <= known


def test_the_slurm_script_tells_every_worker_of_all(tmp_path: Path) -> None:
    fakes = {
        "scontrol": 'printf "node1\\nnode2\\n"',
        "srun": 'shift; for SLURM_PROCID in 0 1; do export SLURM_PROCID; "$@"; done',
        "python": f'echo "$TF_CONFIG" >> {tmp_path}/configs; printf "%s\\n" "$@" > {tmp_path}/words',
    }
    for name, body in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node[1-2]", "PORT": "2222"}
    words = ["--id", "two words", "--data_dir", "/shared/birds"]
    subprocess.run(["bash", FOLDER / "slurm.sh", *words], env=environment, check=True)
    configs = [json.loads(line) for line in (tmp_path / "configs").read_text().splitlines()]
    assert [config["task"] for config in configs] == [{"type": "worker", "index": index} for index in (0, 1)]
    assert all(config["cluster"] == {"worker": ["node1:2222", "node2:2222"]} for config in configs)
    told = (tmp_path / "words").read_text().splitlines()
    assert told[:3] == ["train.py", "--strategy", "multiworker"] and told[-4:] == words
