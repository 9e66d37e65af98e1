"""Excerpts of the schemas of job files: the fields that are used here, with their types, required fields and values.

JobSet, and the Job and Pod inside it: config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml of kubernetes-sigs/jobset at
0a2be5c551fc (v1alpha2). Names: pkg/webhooks/jobset_webhook.go, same repository. ConfigMap: core/v1 of Kubernetes 1.31.
SkyPilot: sky/utils/schemas.py and sky/skylet/constants.py of skypilot-org/skypilot at 00052dfe0d13.
Slurm: options of the manual page of sbatch, 24.05.
"""

import re
from typing import Any

Schema = dict[str, Any]

STRING, INTEGER, BOOLEAN = {"type": str}, {"type": int}, {"type": bool}
DNS_LABEL = {"type": str, "pattern": r"[a-z]([-a-z0-9]*[a-z0-9])?", "max_length": 63}
OBJECT: Schema = {"type": dict}


def table(required: tuple[str, ...] = (), **fields: Schema) -> Schema:
    return {"type": dict, "required": required, "fields": fields}


def array(items: Schema) -> Schema:
    return {"type": list, "items": items}


def one_of(*values: str) -> Schema:
    return {"type": str, "values": values}


CONTAINER = table(
    ("name",),
    name=DNS_LABEL, image=STRING, workingDir=STRING, command=array(STRING), args=array(STRING),
    ports=array(table(("containerPort",), containerPort=INTEGER)),
    resources=table(limits=OBJECT, requests=OBJECT),
    volumeMounts=array(table(("mountPath", "name"), name=STRING, mountPath=STRING, subPath=STRING)),
)  # fmt: skip
VOLUME = table(
    ("name",),
    name=DNS_LABEL,
    configMap=table(name=STRING),
    persistentVolumeClaim=table(("claimName",), claimName=STRING),
    emptyDir=table(medium=STRING),
)
POD = table(
    ("containers",),
    restartPolicy=one_of("Never", "OnFailure"),
    terminationGracePeriodSeconds=INTEGER,
    containers=array(CONTAINER),
    volumes=array(VOLUME),
)
JOB = table(
    ("template",),
    completionMode=one_of("Indexed", "NonIndexed"),
    parallelism=INTEGER,
    completions=INTEGER,
    backoffLimit=INTEGER,
    podFailurePolicy=table(
        ("rules",),
        rules=array(
            table(
                ("action",),
                action=one_of("FailJob", "FailIndex", "Ignore", "Count"),
                onExitCodes=table(
                    ("operator", "values"), containerName=STRING, operator=one_of("In", "NotIn"), values=array(INTEGER)
                ),
            )
        ),
    ),
    template=table(spec=POD),
)
JOB_SET = table(
    apiVersion=one_of("jobset.x-k8s.io/v1alpha2"),
    kind=one_of("JobSet"),
    metadata=table(name=DNS_LABEL),
    spec=table(
        failurePolicy=table(
            maxRestarts=INTEGER,
            rules=array(
                table(
                    ("action", "name"),
                    name={"type": str, "pattern": "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?"},
                    action=one_of("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"),
                    onJobFailureReasons=array(
                        one_of(
                            "BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded",
                            "PodFailurePolicy",
                        )
                    ),
                    targetReplicatedJobs=array(STRING),
                )
            ),
        ),
        network=table(enableDNSHostnames=BOOLEAN, publishNotReadyAddresses=BOOLEAN, subdomain=DNS_LABEL),
        replicatedJobs=array(
            table(("name", "template"), name=DNS_LABEL, replicas=INTEGER, template=table(spec=JOB))
        ),
    ),
)  # fmt: skip
CONFIG_MAP = table(
    apiVersion=one_of("v1"), kind=one_of("ConfigMap"), metadata=table(("name",), name=DNS_LABEL), data=OBJECT
)
SKYPILOT_CLUSTER_NAME = {"type": str, "pattern": "[a-zA-Z]([-_.a-zA-Z0-9]*[a-zA-Z0-9])?"}
SKYPILOT_TASK = table(
    name=SKYPILOT_CLUSTER_NAME,
    num_nodes=INTEGER,
    workdir=STRING,
    resources=table(accelerators=STRING, cpus=STRING, network_tier=one_of("best", "standard")),
    file_mounts=OBJECT,
    volumes=OBJECT,
    setup=STRING,
    run=STRING,
)
SBATCH_OPTIONS = {
    "job-name": r"[a-z][-a-z0-9]*",
    "nodes": r"\d+",
    "ntasks-per-node": r"\d+",
    "gpus-per-node": r"\d+",
    "exclusive": "",
    "time": r"\d+-\d\d:\d\d:\d\d",
    "signal": r"B:USR1@\d+",
    "requeue": "",
    "open-mode": "append|truncate",
    "output": r"[-a-z0-9]+-%j\.log",
}


def check_schema(value: Any, schema: Schema, place: str = "") -> None:
    """Raises AssertionError with the place of the first field that the schema does not allow."""
    assert type(value) is schema["type"], f"{place}: {value!r}"
    assert value in schema.get("values", (value,)), f"{place}: {value}"
    if "pattern" in schema:
        assert re.fullmatch(schema["pattern"], value), f"{place}: {value}"
        assert len(value) <= schema.get("max_length", 1000), f"{place}: {value}"
    for index, item in enumerate(value if "items" in schema else ()):
        check_schema(item, schema["items"], f"{place}[{index}]")
    if "fields" in schema:
        assert set(schema["required"]) <= value.keys(), f"{place}: {value}"
        for name, item in value.items():
            assert name in schema["fields"], f"{place}.{name}"
            check_schema(item, schema["fields"][name], f"{place}.{name}")
