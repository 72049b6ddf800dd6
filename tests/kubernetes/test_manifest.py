"""From an activity to the documents that are sent: tables of what is asked for and what comes out."""

from __future__ import annotations

import inspect
import json
import re
from datetime import timedelta
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durableflow.kubernetes.activity import gpu_job
from durableflow.kubernetes.documents import Job, read
from durableflow.kubernetes.identity import NAME_CHARS_MAX, Identity, identity_of, rules_in, spec_hash_of
from durableflow.kubernetes.manifest import (
    INPUT_BYTES_MAX,
    Doors,
    InputTooLarge,
    config_map,
    documents,
    needs_secret,
    secret,
)
from durableflow.kubernetes.spec import Gpu, JobSpec, Rules, SecretKey, Toleration, Volume, rules_of

WHO = Identity(
    deployment="orders",
    instance_id="order-1",
    task=3,
    scheduled_at_us=1_700_000_000_000_000,
    number=1,
    activity="train",
)


def made(who: Identity = WHO, input: bytes = b"[1]", doors: Any = None, **spec: Any) -> Any:
    return documents(JobSpec(image="trainer:1", **spec), who, "gpus", input, doors=Doors(**doors or {}))


def pod_of(**spec: Any) -> Any:
    return made(**spec).job["spec"]["template"]["spec"]


def main_of(**spec: Any) -> Any:
    return pod_of(**spec)["containers"][0]


def test_the_whole_document_of_a_plain_job() -> None:
    sent = made(gpu=Gpu(count=2, type="nvidia-h200"), active_deadline=timedelta(hours=2), command=["python", "-m", "t"])
    name = WHO.name
    document = json.loads(json.dumps(sent.job))
    annotations = document["metadata"].pop("annotations")
    assert document == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": "gpus", "labels": {"durableflow.dev/deployment": "orders"}},
        "spec": {
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": 604_800,
            "activeDeadlineSeconds": 7_200,
            "template": {
                "metadata": {"labels": {"durableflow.dev/deployment": "orders"}},
                "spec": {
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": 30,
                    "nodeSelector": {"nvidia.com/gpu.product": "nvidia-h200"},
                    "containers": [
                        {
                            "name": "main",
                            "image": "trainer:1",
                            "command": ["python", "-m", "t"],
                            "env": [
                                {"name": "DURABLEFLOW_JOB", "value": name},
                                {"name": "DURABLEFLOW_INPUT", "value": "/var/run/durableflow/input/input.json"},
                                {"name": "DURABLEFLOW_TERMINATION_LOG", "value": "/dev/termination-log"},
                            ],
                            "resources": {"limits": {"nvidia.com/gpu": "2"}},
                            "volumeMounts": [
                                {
                                    "name": "durableflow-input",
                                    "mountPath": "/var/run/durableflow/input",
                                    "readOnly": True,
                                }
                            ],
                            "terminationMessagePath": "/dev/termination-log",
                            "terminationMessagePolicy": "FallbackToLogsOnError",
                        }
                    ],
                    "volumes": [{"name": "durableflow-input", "configMap": {"name": name}}],
                },
            },
        },
    }
    assert annotations["durableflow.dev/instance"] == "order-1"
    assert annotations["durableflow.dev/spec-hash"] == sent.spec_hash
    assert json.loads(sent.input) == {"input": [1], "attempt": 1, "details": None}


@pytest.mark.parametrize(
    ("asked", "field", "expected"),
    [
        (
            {"cpu": "4", "memory": "64Gi"},
            "resources",
            {"requests": {"cpu": "4", "memory": "64Gi"}, "limits": {"memory": "64Gi"}},
        ),
        ({"args": ["--fast"]}, "args", ["--fast"]),
        ({"gpu": Gpu(resource="amd.com/gpu")}, "resources", {"limits": {"amd.com/gpu": "1"}}),
    ],
)
def test_what_is_asked_for_the_container_is_there(asked: Any, field: str, expected: Any) -> None:
    assert main_of(**asked)[field] == expected


@pytest.mark.parametrize(
    ("asked", "field", "expected"),
    [
        ({"service_account": "trainer"}, "serviceAccountName", "trainer"),
        ({"priority_class": "low"}, "priorityClassName", "low"),
        ({"grace_period": 90}, "terminationGracePeriodSeconds", 90),
        (
            {"node_selector": {"zone": "a"}, "gpu": Gpu(type="t4", node_label="gpu")},
            "nodeSelector",
            {"zone": "a", "gpu": "t4"},
        ),
        (
            {"tolerations": [Toleration(key="gpu", value="yes", effect="NoSchedule"), Toleration(seconds=5)]},
            "tolerations",
            [
                {"operator": "Equal", "key": "gpu", "value": "yes", "effect": "NoSchedule"},
                {"operator": "Exists", "tolerationSeconds": 5},
            ],
        ),
    ],
)
def test_what_is_asked_for_the_pod_is_there(asked: Any, field: str, expected: Any) -> None:
    assert pod_of(**asked)[field] == expected


def test_a_secret_is_a_reference_and_its_value_is_nowhere() -> None:
    container = main_of(env={"MODE": "fast"}, env_from_secrets={"TOKEN": SecretKey("hub", "token")})
    assert {"name": "MODE", "value": "fast"} in container["env"]
    assert {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}} in container["env"]


def test_volumes_are_mounted_beside_our_own() -> None:
    claim = {"persistentVolumeClaim": {"claimName": "data"}}
    asked = {"volumes": [Volume(name="data", mount="/data", source=claim, read_only=True)]}
    assert pod_of(**asked)["volumes"][1] == {"name": "data", **claim}
    assert main_of(**asked)["volumeMounts"][1] == {"name": "data", "mountPath": "/data", "readOnly": True}


def test_a_queued_job_is_created_suspended_with_the_label_of_its_queue() -> None:
    job = made(queue_name="team-a").job
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert "suspend" not in made().job["spec"]


def test_with_a_callback_the_pod_has_a_token_for_us_alone() -> None:
    sent = made(doors={"callback": "http://flows.svc/jobs"})
    pod = sent.job["spec"]["template"]["spec"]
    assert pod["volumes"][1]["projected"]["sources"] == [
        {"serviceAccountToken": {"audience": "durableflow", "expirationSeconds": 3_600, "path": "token"}}
    ]
    env = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    assert env["DURABLEFLOW_CALLBACK"] == "http://flows.svc/jobs"
    assert env["DURABLEFLOW_TOKEN_FILE"] == "/var/run/secrets/durableflow/token"
    assert pod["containers"][0]["volumeMounts"][1]["mountPath"] == "/var/run/secrets/durableflow"


def test_a_token_of_the_jobs_own_is_in_its_secret_and_nowhere_in_the_job() -> None:
    sent = made(doors={"callback": "https://flows.example.com/jobs", "has_own_token": True})
    pod = sent.job["spec"]["template"]["spec"]
    assert pod["volumes"][1] == {"name": "durableflow-secret", "secret": {"secretName": WHO.name}}
    env = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    assert env["DURABLEFLOW_TOKEN_FILE"] == "/var/run/secrets/durableflow-job/token"
    mount = {"name": "durableflow-secret", "mountPath": "/var/run/secrets/durableflow-job", "readOnly": True}
    assert pod["containers"][0]["volumeMounts"][1] == mount
    assert "serviceAccountToken" not in json.dumps(sent.job)
    document = secret(WHO.name, "uid-1", "gpus", "orders", {"token": "dfj_x"})
    assert document["stringData"] == {"token": "dfj_x"}
    assert document["metadata"] == config_map(WHO.name, "uid-1", "gpus", "orders", "")["metadata"]


@pytest.mark.parametrize(
    ("doors", "expected"),
    [
        ({}, False),
        ({"callback": "http://x"}, False),
        ({"has_own_token": True}, False),
        ({"callback": "http://x", "has_own_token": True}, True),
        ({"has_objects": True}, True),
        ({"callback": "http://x", "has_objects": True}, True),
    ],
)
def test_a_job_has_a_secret_only_where_there_is_something_to_keep(doors: Any, expected: bool) -> None:
    assert needs_secret(made(doors=doors).job) is Doors(**doors).needs_secret is expected


@pytest.mark.parametrize(("own", "volumes"), [(False, ["secret", "token"]), (True, ["secret"])])
def test_with_an_object_store_the_pod_is_told_where_in_its_secret_beside_its_token(own: bool, volumes: Any) -> None:
    pod = made(doors={"callback": "http://x", "has_own_token": own, "has_objects": True}).job["spec"]["template"][
        "spec"
    ]
    env = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    assert env["DURABLEFLOW_OBJECTS_FILE"] == "/var/run/secrets/durableflow-job/objects.json"
    names = [f"durableflow-{each}" for each in ("input", *volumes)]
    assert [each["name"] for each in pod["volumes"]] == names
    assert [each["name"] for each in pod["containers"][0]["volumeMounts"]] == names


def test_an_input_that_no_config_map_holds_is_an_object_and_its_digest_is_in_the_config_map() -> None:
    around = len('{"input":"","attempt":1,"details":null}')
    largest = json.dumps("x" * (INPUT_BYTES_MAX - around)).encode()
    larger = json.dumps("x" * (INPUT_BYTES_MAX - around + 1)).encode()
    assert made(input=largest, doors={"has_objects": True}).object is None
    sent = made(input=larger, doors={"has_objects": True})
    assert json.loads(sent.object) == {"input": json.loads(larger), "attempt": 1, "details": None}
    assert json.loads(sent.input) == {"sha256": sha256(sent.object).hexdigest()}
    with pytest.raises(InputTooLarge, match=r"1000001 bytes.*give KubernetesJobs an object store"):
        made(input=larger)


def test_the_input_is_a_config_map_that_goes_with_its_job() -> None:
    sent = made()
    document = config_map(WHO.name, "uid-1", "gpus", "orders", sent.input)
    assert document["metadata"]["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "name": WHO.name, "uid": "uid-1"}
    ]
    assert document["data"] == {"input.json": sent.input}


# -- who it is --------------------------------------------------------------------------------------------------------

ids = st.text(min_size=1, max_size=500)


@given(ids, ids, st.integers(1, 2**53), st.integers(1, 9_999_999))
def test_a_name_is_short_and_a_dns_label_whatever_the_ids(instance: str, activity: str, task: int, number: int) -> None:
    who = Identity(
        deployment="d", instance_id=instance, task=task, scheduled_at_us=task, number=number, activity=activity
    )
    assert len(who.name) <= NAME_CHARS_MAX
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", who.name)


@pytest.mark.parametrize(
    "change",
    [{"deployment": "other"}, {"instance_id": "order-2"}, {"task": 4}, {"scheduled_at_us": 1}, {"number": 2}],
)
def test_a_name_is_that_of_one_identity(change: Any) -> None:
    assert msgspec.structs.replace(WHO, **change).name != WHO.name
    assert msgspec.structs.replace(WHO).name == WHO.name


def test_a_job_that_was_sent_says_whose_it_is() -> None:
    sent = made(schedule_timeout=60, exit_codes={3: "fatal"})
    job = read(Job, sent.job)
    assert identity_of(job) == WHO
    assert spec_hash_of(job) == sent.spec_hash
    expected = JobSpec(image="trainer:1", schedule_timeout=60, exit_codes={3: "fatal"})
    assert rules_in(job) == rules_of(expected, WHO.name)
    assert (rules_in(job).schedule_us, rules_in(job).exit_codes) == (60_000_000, {"3": "fatal"})


def test_a_job_that_lies_about_itself_is_nobodys() -> None:
    sent = made()
    sent.job["metadata"]["annotations"]["durableflow.dev/instance"] = "order-2"
    assert identity_of(read(Job, sent.job)) is None
    del sent.job["metadata"]["annotations"]
    assert identity_of(read(Job, sent.job)) is None
    assert rules_in(read(Job, sent.job)) == Rules(job=WHO.name)


@pytest.mark.parametrize(
    "other",
    [{"cpu": "2"}, {"input": b"[2]"}, {"template": {"metadata": {"labels": {"a": "b"}}}}],
)
def test_another_document_has_another_hash(other: Any) -> None:
    assert made().spec_hash == made().spec_hash
    assert made(**other).spec_hash != made().spec_hash


@pytest.mark.parametrize(
    "doors",
    [
        {"callback": "http://a"},
        {"callback": "http://b"},
        {"callback": "http://a", "has_own_token": True},
        {"has_objects": True},
    ],
)
def test_how_a_pod_reaches_its_worker_is_no_part_of_the_hash(doors: Any) -> None:
    assert made(doors=doors).spec_hash == made().spec_hash
    assert spec_hash_of(read(Job, made(doors=doors).job)) == made().spec_hash


# -- the template of the user's own -----------------------------------------------------------------------------------


def test_a_template_is_merged_over_ours_by_the_names_of_containers() -> None:
    template = {
        "metadata": {"labels": {"team": "a"}, "annotations": {"note": "n"}},
        "spec": {
            "hostIPC": True,
            "containers": [
                {"name": "main", "env": [{"name": "NCCL_DEBUG", "value": "INFO"}], "securityContext": {"runAsUser": 7}},
                {"name": "logger", "image": "logger:1"},
            ],
            "tolerations": [{"key": "spot", "operator": "Exists"}],
            "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
        },
    }
    sent = made(template=template, tolerations=[Toleration(key="gpu")], env={"A": "1", "NCCL_DEBUG": "WARN"})
    written = sent.job["spec"]["template"]
    assert written["metadata"]["labels"] == {"durableflow.dev/deployment": "orders", "team": "a"}
    main, logger = written["spec"]["containers"]
    assert main["image"] == "trainer:1"
    assert main["securityContext"] == {"runAsUser": 7}
    assert [each["value"] for each in main["env"] if each["name"] == "NCCL_DEBUG"] == ["INFO"]
    assert {"name": "A", "value": "1"} in main["env"]
    assert logger == {"name": "logger", "image": "logger:1"}
    assert [each["key"] for each in written["spec"]["tolerations"]] == ["gpu", "spot"]
    assert [each["name"] for each in written["spec"]["volumes"]] == ["durableflow-input", "shm"]


@pytest.mark.parametrize(
    ("template", "field"),
    [
        ({"spec": {"restartPolicy": "OnFailure"}}, "spec.restartPolicy"),
        ({"spec": {"activeDeadlineSeconds": 5}}, "spec.activeDeadlineSeconds"),
        ({"spec": {"terminationGracePeriodSeconds": 5}}, "spec.terminationGracePeriodSeconds"),
        ({"spec": {"containers": [{"name": "main", "image": "x"}]}}, "spec.containers['main'].image"),
        ({"spec": {"containers": [{"name": "main", "terminationMessagePath": "/x"}]}}, "terminationMessagePath"),
        ({"spec": {"initContainers": [{"name": "i", "env": [{"name": "DURABLEFLOW_JOB"}]}]}}, "DURABLEFLOW_JOB"),
        ({"spec": {"volumes": [{"name": "durableflow-token"}]}}, "spec.volumes['durableflow-token']"),
        (
            {"spec": {"containers": [{"name": "main", "volumeMounts": [{"mountPath": "/var/run/durableflow/input"}]}]}},
            "volumeMounts",
        ),
        (
            {
                "spec": {
                    "containers": [
                        {"name": "main", "volumeMounts": [{"mountPath": "/var/run/secrets/durableflow-job"}]}
                    ]
                }
            },
            "volumeMounts",
        ),
        ({"metadata": {"labels": {"durableflow.dev/deployment": "x"}}}, "durableflow.dev/deployment"),
        ({"spec": {"containers": [{"image": "x"}]}}, "no name"),
        ({"backoffLimit": 3}, "backoffLimit"),
    ],
)
def test_a_template_that_touches_what_is_ours_is_refused(template: Any, field: str) -> None:
    with pytest.raises(ValueError, match=re.escape(field)):
        made(template=template)


# -- what is refused when it is written -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"image": " "}, "image"),
        ({"image": "i", "cpu": "4 cores"}, "cpu"),
        ({"image": "i", "memory": "-1Gi"}, "memory"),
        ({"image": "i", "env": {"DURABLEFLOW_X": "1"}}, "DURABLEFLOW_X"),
        ({"image": "i", "env": {"1A": "1"}}, "1A"),
        ({"image": "i", "env": {"A": "1"}, "env_from_secrets": {"A": SecretKey("s", "k")}}, "both have 'A'"),
        ({"image": "i", "active_deadline": 0.5}, "active_deadline"),
        ({"image": "i", "schedule_timeout": -1}, "schedule_timeout"),
        ({"image": "i", "exit_codes": {0: "fatal"}}, "exit_codes"),
        ({"image": "i", "infrastructure_retries": -1}, "infrastructure_retries"),
        ({"image": "i", "queue_name": "Team A"}, "queue_name"),
    ],
)
def test_a_spec_that_no_server_would_take_is_refused_at_once(asked: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JobSpec(**asked)


EMPTY = {"emptyDir": {}}


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        (Gpu, {"count": 0}),
        (Gpu, {"resource": "gpu"}),
        (Volume, {"name": "durableflow-x", "mount": "/x", "source": EMPTY}),
        (Volume, {"name": "X", "mount": "/x", "source": EMPTY}),
        (Volume, {"name": "x", "mount": "x", "source": EMPTY}),
        (Volume, {"name": "x", "mount": "/x", "source": {}}),
        (JobSpec, {"image": "i", "volumes": [Volume(name="x", mount="/x", source=EMPTY)] * 2}),
    ],
)
def test_parts_of_a_spec_are_refused_where_they_are_made(kind: Any, asked: Any) -> None:
    with pytest.raises(ValueError, match=r"Gpu\.|Volume\.|volumes has two"):
        kind(**asked)


def test_gpu_job_offers_each_part_of_a_spec_with_the_same_default() -> None:
    """They are written twice, because a signature is what a user's editor shows."""
    own = {"name", "retry", "schedule_to_close", "cluster"}
    renamed = {"result_mode": "result"}
    plain = JobSpec(image="i")
    fields = {name: getattr(plain, name) for name in JobSpec.__struct_fields__ if name != "image"}
    asked = {
        renamed.get(name, name): parameter.default
        for name, parameter in inspect.signature(gpu_job).parameters.items()
        if name not in own | {"image", "result"}
    }
    assert list(asked) == list(fields)
    assert {name: default or None for name, default in asked.items()} == {
        name: default or None for name, default in fields.items()
    }
