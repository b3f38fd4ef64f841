"""Wrong, careless and hostile specs: each is refused with a sentence that helps, or accepted and right.

Refused means at `kubectl apply`, by the API server. `words` are what the sentence must have: where the mistake is, and
what would be allowed. The operator meets all of it and goes on as if nothing had been.
"""
# ruff: noqa: E501 - the table is one line a case

import json
from copy import deepcopy
from typing import Any

import pytest

from e2e.support.api import Manifest
from e2e.support.installation import Installation
from e2e.support.manifests import LABEL_MANAGED_BY, LABEL_REVISION, LABEL_SERVICE, service
from e2e.support.site import documents
from e2e.support.team import Team
from e2e.support.wait import until

MODEL = "spec.predictor.model"
URI = "must be s3://, gs://, az://, https://, hf://, oci://, sample://NAME, pvc://CLAIM/PATH or file:///PATH"
QUANTITY = "must be a quantity such as 2, 500m or 8Gi"
DURATION = "must be a duration such as 500ms, 10s or 1m30s"
MEGABYTE = "x" * (1 << 20)


def changed(*changes: tuple[str, Any], name: str = "wrong") -> Manifest:
    """A good service with the fields at dotted paths set to something else."""
    made = deepcopy(service(name))
    for path, value in changes:
        *way, last = path.split(".")
        place = made
        for key in way:
            place = place.setdefault(key, {})
        place[last] = value
    return made


def model(field: str, value: Any) -> Manifest:
    return changed((f"{MODEL}.{field}", value))


def stored(field: str, value: Any, uri: str = "s3://models/m") -> Manifest:
    return changed((f"{MODEL}.storageUri", uri), (f"{MODEL}.storage.{field}", value))


def predictor(field: str, value: Any) -> Manifest:
    return changed((f"spec.predictor.{field}", value))


def nested(depth: int) -> Manifest:
    inner: dict[str, Any] = {}
    for _ in range(depth):
        inner = {"predictor": inner}
    return changed(("spec.predictor", inner))


def refused(id_: str, manifest: Manifest, *words: str) -> Any:
    return pytest.param(manifest, words, id=id_)


REFUSED = [
    # Addresses of models
    refused("no-scheme", model("storageUri", "model.pt"), f"{MODEL}.storageUri", URI, 'not "model.pt"'),
    refused("empty-uri", model("storageUri", ""), f"{MODEL}.storageUri", URI),
    refused("climbs", model("storageUri", "pvc://models/../../etc/shadow"), f"{MODEL}.storageUri", URI, '".."'),
    refused("climbs-at-the-end", model("storageUri", "file:///opt/slipway/.."), f"{MODEL}.storageUri", URI),
    refused("climbs-encoded", model("storageUri", "pvc://models/%2e%2e/secret"), f"{MODEL}.storageUri", URI),
    refused("foreign-scheme", model("storageUri", "http://169.254.169.254/latest"), f"{MODEL}.storageUri", URI),
    refused("query-in-uri", model("storageUri", "sample://hello?x=1"), f"{MODEL}.storageUri", URI),
    refused("new-line-in-uri", model("storageUri", "sample://hello\n--evil"), f"{MODEL}.storageUri", URI),
    refused("null-byte-in-uri", model("storageUri", "file:///opt\0/etc"), f"{MODEL}.storageUri", URI),
    refused("flag-as-uri", model("storageUri", "--help"), f"{MODEL}.storageUri", URI),
    refused("unicode-uri", model("storageUri", "sample://hellö"), f"{MODEL}.storageUri", URI),
    refused("megabyte-uri", model("storageUri", "sample://" + MEGABYTE), f"{MODEL}.storageUri", "1024"),
    # Types and absences
    refused("user-in-uri", model("storageUri", "https://user:pw@host/m.pt"), f"{MODEL}.storageUri", URI),
    refused("climbs-in-a-bucket", model("storageUri", "s3://models/../../x"), f"{MODEL}.storageUri", URI),
    refused("backslash-in-uri", model("storageUri", "https://h\\@169.254.169.254/x"), f"{MODEL}.storageUri", URI),
    refused("endpoint-with-a-password", stored("endpoint", "http://user:pw@minio"), f"{MODEL}.storage.endpoint", "should match"),
    refused("endpoint-of-a-file", stored("endpoint", "file:///etc"), f"{MODEL}.storage.endpoint", "should match"),
    refused("digest-of-nothing", stored("sha256", "x"), f"{MODEL}.storage.sha256", "should match"),
    refused("secret-of-another-namespace", stored("secretName", "other/secret"), f"{MODEL}.storage.secretName", "should match"),
    refused("storage-of-a-sample", model("storage", {"anonymous": True}), MODEL, "storage goes with s3://"),
    refused("region-of-no-bucket", stored("region", "eu", "hf://org/name"), MODEL, "storage.region and storage.pathStyle go with s3://"),
    refused("number-as-uri", model("storageUri", 7), f"{MODEL}.storageUri", "string"),
    refused("list-as-spec", changed(("spec", ["predictor"])), "spec", "object"),
    refused("text-as-replicas", changed(("spec.scaling.minReplicas", "many")), "spec.scaling.minReplicas", "integer"),
    refused("fraction-of-a-replica", changed(("spec.scaling.minReplicas", 1.5)), "spec.scaling.minReplicas", "integer"),
    refused("no-spec", {"apiVersion": "slipway.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": "wrong"}}, "spec", "Required"),
    refused("no-model", changed(("spec.predictor", {"timeout": "10s"})), MODEL, "Required"),
    refused("null-format", model("modelFormat", None), f"{MODEL}.modelFormat", "Required"),
    refused("text-as-flag", model("env", [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": "yes"}}}]), f"{MODEL}.env[0].valueFrom.secretKeyRef.optional", "boolean"),
    # Numbers
    refused("minus-replicas", changed(("spec.scaling.minReplicas", -3)), "spec.scaling.minReplicas", "greater than or equal to 0"),
    refused("too-many-replicas", changed(("spec.scaling.minReplicas", 1001)), "spec.scaling.minReplicas", "less than or equal to 1000"),
    refused("most-below-least", changed(("spec.scaling", {"minReplicas": 3, "maxReplicas": 2})), "spec.scaling", "minReplicas is more than maxReplicas"),
    refused("no-objective", changed(("spec.scaling.objective", {})), "spec.scaling.objective", "needs one of latency"),
    refused("instant-objective", changed(("spec.scaling.objective", {"latency": {"p99": "0s"}})), "spec.scaling.objective.latency", "must be longer than 0s"),
    refused("cron-in-words", changed(("spec.scaling.schedules", [{"name": "a", "start": "every day", "minReplicas": 1}])), "spec.scaling.schedules[0].start", "must be five fields of cron"),
    refused("half-a-replica", changed(("spec.scaling.behavior", {"up": {"replicas": "0.5"}})), "spec.scaling.behavior.up.replicas", "must be a number of replicas or a share"),
    refused("huge-number", predictor("containerConcurrency", 2**62), "spec.predictor.containerConcurrency", "less than or equal to 10000"),
    refused("beyond-64-bits", predictor("containerConcurrency", 10**30), "spec.predictor.containerConcurrency", "integer"),
    refused("minus-concurrency", predictor("containerConcurrency", -1), "spec.predictor.containerConcurrency", "greater than or equal to 0"),
    # Durations and quantities
    refused("duration-in-words", predictor("timeout", "10 seconds"), "spec.predictor.timeout", DURATION, "10 seconds"),
    refused("no-duration", predictor("timeout", "0s"), "spec.predictor.timeout", "longer than 0s and at most 1h"),
    refused("long-duration", predictor("timeout", "61m"), "spec.predictor.timeout", "longer than 0s and at most 1h"),
    refused("minus-duration", predictor("timeout", "-5s"), "spec.predictor.timeout", DURATION),
    refused("duration-that-overflows", predictor("timeout", "99999999999999999999999h"), "spec.predictor.timeout"),
    refused("memory-in-words", model("resources", {"limits": {"memory": "8 GB"}}), f"{MODEL}.resources.limits[memory]", QUANTITY),
    refused("minus-memory", model("resources", {"limits": {"memory": "-1Gi"}}), f"{MODEL}.resources.limits[memory]", QUANTITY),
    refused("not-a-number-of-cpus", model("resources", {"limits": {"cpu": "NaN"}}), f"{MODEL}.resources.limits[cpu]", QUANTITY),
    refused("unknown-resource", model("resources", {"limits": {"ram": "1Gi"}}), f"{MODEL}.resources.limits", "resource names are cpu, memory, ephemeral-storage or DOMAIN/NAME"),
    refused("half-a-gpu", model("resources", {"limits": {"nvidia.com/gpu": "500m"}}), f"{MODEL}.resources", "counted in whole numbers"),
    refused("gpu-asked-for-only", model("resources", {"requests": {"nvidia.com/gpu": 1}}), f"{MODEL}.resources", "set it in limits"),
    refused("more-asked-than-allowed", model("resources", {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}), f"{MODEL}.resources", "requests may not be larger than limits"),
    # Names
    refused("upper-case-name", changed(name="Wrong"), "metadata.name", "lower"),
    refused("long-name", changed(name="a" * 49), "at most 48"),
    refused("name-that-starts-with-a-digit", changed(name="7th"), "metadata.name", "starting with a letter"),
    refused("dotted-name", changed(name="a.b"), "metadata.name", "letters, digits and dashes"),
    refused("name-that-climbs", changed(name="../etc"), "invalid resource name", "may not contain '/'"),
    refused("unicode-name", changed(name="modèle"), "metadata.name"),
    refused("empty-name", changed(name=""), "name"),
    refused("format-with-spaces", model("modelFormat", {"name": "torch script"}), f"{MODEL}.modelFormat.name", "should match"),
    refused("format-with-markup", model("modelFormat", {"name": "<script>"}), f"{MODEL}.modelFormat.name", "should match"),
    refused("version-that-injects-an-image", model("runtimeVersion", "1@sha256:0"), f"{MODEL}.runtimeVersion", "should match"),
    refused("runtime-with-a-slash", model("runtime", "../other/runtime"), f"{MODEL}.runtime", "should match"),
    # Environment and arguments
    refused("same-variable-twice", model("env", [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]), f"{MODEL}.env[1]", "Duplicate value"),
    refused("variable-of-the-operator", model("env", [{"name": "SLIPWAY_MODEL_PATH", "value": "/etc"}]), f"{MODEL}.env[0].name", "names that start with SLIPWAY_ are reserved"),
    refused("variable-with-an-equals-sign", model("env", [{"name": "A=B", "value": "1"}]), f"{MODEL}.env[0].name", "must be letters, digits and _"),
    refused("empty-variable", model("env", [{"name": "", "value": "1"}]), f"{MODEL}.env[0].name"),
    refused("two-sources", model("env", [{"name": "A", "value": "1", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]), f"{MODEL}.env[0]", "give value or valueFrom, not both"),
    refused("no-source", model("env", [{"name": "A", "valueFrom": {}}]), f"{MODEL}.env[0].valueFrom", "give one of secretKeyRef and configMapKeyRef"),
    refused("key-that-climbs", model("env", [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "../k"}}}]), f"{MODEL}.env[0].valueFrom.secretKeyRef.key", "should match"),
    refused("number-as-value", model("env", [{"name": "A", "value": 1}]), f"{MODEL}.env[0].value", "string"),
    refused("megabyte-value", model("env", [{"name": "A", "value": MEGABYTE}]), f"{MODEL}.env[0].value", "8192"),
    refused("too-many-variables", model("env", [{"name": f"A{i}", "value": ""} for i in range(65)]), f"{MODEL}.env", "at most 64"),
    refused("too-many-arguments", model("args", ["--x"] * 65), f"{MODEL}.args", "at most 64"),
    refused("long-argument", model("args", ["x" * 2049]), f"{MODEL}.args[0]", "2048"),
    refused("number-as-argument", model("args", [1]), f"{MODEL}.args[0]", "string"),
    # Placement
    refused("label-injection", predictor("nodeSelector", {"a": 'b", "c": "d'}), "spec.predictor.nodeSelector.a", "should match"),
    refused("label-with-new-line", predictor("nodeSelector", {"a\nb": "c"}), "spec.predictor.nodeSelector", "keys are label names"),
    refused("long-label", predictor("nodeSelector", {"a": "b" * 64}), "spec.predictor.nodeSelector.a", "63"),
    refused("toleration-of-everything-by-value", predictor("tolerations", [{"operator": "Equal", "value": "x"}]), "spec.predictor.tolerations[0]", "needs operator: Exists"),
    refused("unknown-effect", predictor("tolerations", [{"key": "a", "effect": "Never"}]), "spec.predictor.tolerations[0].effect", "NoSchedule"),
    refused("existing-with-value", predictor("tolerations", [{"key": "a", "operator": "Exists", "value": "x"}]), "spec.predictor.tolerations[0]", "takes no value"),
    refused("other-strategy", changed(("spec.rollout", {"strategy": "Recreate"})), "spec.rollout.strategy", '"Canary", "BlueGreen", "None"'),
    refused("step-of-two-kinds", changed(("spec.rollout", {"steps": [{"weight": "5%", "mirror": "5%"}]})), "spec.rollout.steps[0]", "give one of weight and mirror"),
    refused("step-of-no-share", changed(("spec.rollout", {"steps": [{"weight": "5 %"}]})), "spec.rollout.steps[0].weight", "must be a share such as 5% or 33.33%"),
    # What there is not
    refused("pod-spec", predictor("podSpec", {"hostNetwork": True}), 'unknown field "spec.predictor.podSpec"'),
    refused("security-context", model("securityContext", {"privileged": True}), f'unknown field "{MODEL}.securityContext"'),
    refused("service-account", predictor("serviceAccountName", "admin"), 'unknown field "spec.predictor.serviceAccountName"'),
    refused("host-path", model("volumeMounts", [{"mountPath": "/"}]), f'unknown field "{MODEL}.volumeMounts"'),
    refused("field-of-a-later-version", changed(("spec.explainer", {"type": "shap"})), 'unknown field "spec.explainer"'),
    refused("prototype", predictor("__proto__", {"x": 1}), 'unknown field "spec.predictor.__proto__"'),
    refused("deep-nesting", nested(500), "unknown field"),
    refused("other-updates-policy", predictor("runtimeUpdates", "Always"), "spec.predictor.runtimeUpdates", '"Pinned", "Follow"'),
]  # fmt: skip


@pytest.fixture(scope="module")
def operators(shared_slipway: Installation) -> dict[str, int]:
    return shared_slipway.lives()


@pytest.mark.parametrize(("manifest", "words"), REFUSED)
def test_refused_at_apply_with_a_sentence_that_helps(
    operators: dict[str, int], shared_team: Team, manifest: Manifest, words: tuple[str, ...]
) -> None:
    assert operators
    text = documents(manifest)
    # Client-side apply keeps a copy in an annotation, of a megabyte too, and would speak of that first.
    how = ("--server-side",) if len(text) > 200_000 else ()
    where = ("apply", *how, "--namespace", shared_team.name, "--filename", "-")
    done = shared_team.site.try_kubectl(*where, stdin=text)
    told = done.stderr
    assert done.returncode != 0, f"accepted: {done.stdout}"
    assert len(told) < 3000, f"{len(told)} characters are no sentence: {told[:300]} ..."
    assert [word for word in words if word not in told] == [], told


# Accepted, and right


def test_the_longest_name_serves(operators: dict[str, int], shared_team: Team) -> None:
    assert operators
    name = "a" * 48
    shared_team.apply(service(name))
    shared_team.wait_settled(name)
    assert shared_team.answers(name, 1)


def test_strange_but_harmless_values_reach_the_pod_as_they_are(operators: dict[str, int], shared_team: Team) -> None:
    assert operators
    values = {
        "QUOTE": '"; rm -rf / #',
        "UNICODE": "žluťoučký 🐎\u202e",
        "DOLLAR": "$(HOME) ${HOME} `id`",
        "LINES": "a\nb\n",
    }
    env = [{"name": name, "value": value} for name, value in values.items()]
    # The kubelet replaces $(NAME) of an earlier variable, as documented for `args`; $$(NAME) escapes it.
    env += [
        {"name": "ESCAPED", "value": "$$(HOME)"},
        {"name": "EMPTY", "value": ""},
        {"name": "BIG", "value": "é" * 8192},
    ]
    shared_team.apply(service("strange", env=env))
    shared_team.wait_settled("strange")
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    pod = shared_team.pods("strange")[0]["metadata"]["name"]
    seen = json.loads(shared_team.kubectl("exec", pod, "--container", "model", "--", "python", "-c", script))
    home = "/tmp/home ${HOME} `id`"  # noqa: S108 - the pod's own
    wanted = values | {"DOLLAR": home, "ESCAPED": "$(HOME)", "EMPTY": "", "BIG": "é" * 8192}
    assert {name: seen.get(name) for name in wanted} == wanted


def test_labels_and_annotations_of_a_user_stay_the_users(operators: dict[str, int], shared_team: Team) -> None:
    """Ours on somebody's InferenceService mean nothing, and go nowhere."""
    assert operators
    made = service("labelled")
    made["metadata"] |= {
        "labels": {LABEL_MANAGED_BY: "slipway", LABEL_SERVICE: "other", LABEL_REVISION: "other-1", "kopf": "x"},
        "annotations": {"kopf.zalando.org/last-handled-configuration": "{}", "slipway.dev/replicas": "9"},
    }
    shared_team.apply(made)
    shared_team.wait_settled("labelled")
    assert len(shared_team.pods("labelled")) == 1
    assert shared_team.pods("other") == []


def test_a_spec_stored_without_validation_is_told_and_harms_nobody(
    operators: dict[str, int], shared_team: Team
) -> None:
    """`--validate=false` drops unknown fields with a warning; what is left is served."""
    assert operators
    done = shared_team.site.try_kubectl(
        *("apply", "--validate=warn", "--namespace", shared_team.name, "--filename", "-"),
        stdin=documents(changed(("spec.predictor.podSpec", {"hostNetwork": True}), name="loose")),
    )
    assert done.returncode == 0, done.stderr
    assert 'unknown field "spec.predictor.podSpec"' in done.stderr
    shared_team.wait_settled("loose")
    assert "podSpec" not in shared_team.must_get("inferenceservices", "loose")["spec"]["predictor"]
    assert not shared_team.pods("loose")[0]["spec"].get("hostNetwork")


@pytest.mark.parametrize(
    ("field", "reason", "words"),
    [
        ({"modelFormat": {"name": "onnx"}}, "NoSupportingRuntime", "no runtime supports model format 'onnx'"),
        (
            {"runtime": "nope"},
            "RuntimeNotFound",
            "spec.predictor.model.runtime: no runtime 'nope'; there are: slipway-pytorch",
        ),
    ],
)
def test_what_no_schema_can_tell_is_told_by_condition(
    operators: dict[str, int], shared_team: Team, field: dict[str, Any], reason: str, words: str
) -> None:
    assert operators
    name = f"told-{reason.lower()}"
    shared_team.apply(service(name, **field))
    told = shared_team.wait(name, "Accepted", "False", reason=reason, within_s=10)
    assert words in told["message"]
    assert shared_team.condition(name, "Stalled")["status"] == "True"
    assert shared_team.condition(name, "Ready")["reason"] == reason


def test_a_flood_of_wrong_changes_does_not_hold_up_others(operators: dict[str, int], shared_team: Team) -> None:
    """Twenty changes of one service in a few seconds; a neighbour becomes Ready meanwhile."""
    assert operators
    api = shared_team.site.api
    shared_team.apply(service("noisy"))
    shared_team.apply(service("neighbour"))
    for turn in range(20):
        body = {
            "spec": {"predictor": {"model": {"runtime": "nope" if turn % 2 else None, "args": [f"--threads={turn}"]}}}
        }
        api.merge("inferenceservices", shared_team.name, "noisy", body)
    shared_team.wait_settled("neighbour")
    api.merge(
        "inferenceservices",
        shared_team.name,
        "noisy",
        {"spec": {"predictor": {"model": {"runtime": None, "args": []}}}},
    )
    shared_team.wait_settled("noisy")
    assert shared_team.answers("noisy", 1)
    until("one revision is left", lambda: len(shared_team.pods("noisy")) == 1, within_s=60)


def test_the_operator_took_no_notice(operators: dict[str, int], slipway: Installation, shared_team: Team) -> None:
    """Last of this file: after all of the above the same operators run, and serve the next in seconds."""
    assert slipway.lives() == operators
    shared_team.apply(service("good"))
    shared_team.wait_settled("good", within_s=45)
    assert shared_team.answers("good", 1)
